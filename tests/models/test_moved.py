"""How far weights moved: against the products and differences themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlvis.models import lora
from rlvis.models.moved import KEPT, Start, words
from rlvis.schema import LoraConfig


class Denoiser(nn.Module):
    """A linear layer and a convolution, as diffusers' models take adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(6, 5), nn.Conv2d(3, 4, 3)

    def add_adapter(self, config: object, adapter_name: str) -> None:
        import peft

        peft.inject_adapter_in_model(config, self, adapter_name)  # type: ignore[arg-type]


def test_of_a_lora_it_is_the_products_norm() -> None:
    denoiser, config = Denoiser(), LoraConfig(2, 3, ["linear", "conv"])
    base = [denoiser.linear.weight.clone(), denoiser.conv.weight.clone()]
    lora.inject(denoiser, config, (), 0)
    trained = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    start = Start([denoiser], trained.items())
    draw = torch.Generator().manual_seed(0)
    factors = {
        f"{layer}.lora_{half}.weight": torch.randn(shape, generator=draw)
        for layer, half, shape in (
            ("linear", "A", (2, 6)),
            ("linear", "B", (5, 2)),
            ("conv", "A", (2, 3, 3, 3)),
            ("conv", "B", (4, 2, 1, 1)),
        )
    }
    change = torch.cat(
        [
            (factors["linear.lora_B.weight"] @ factors["linear.lora_A.weight"]).flatten(),
            (factors["conv.lora_B.weight"].flatten(1) @ factors["conv.lora_A.weight"].flatten(1)).flatten(),
        ]
    )
    before = torch.cat([weight.flatten() for weight in base])
    assert start.of_lora([factors]) == pytest.approx(
        float((change.norm() / before.norm()).detach()), rel=1e-5
    )
    nothing = {name: value * (0 if "lora_B" in name else 1) for name, value in factors.items()}
    assert start.of_lora([nothing]) == 0


def test_of_whole_weights_a_few_tell_it() -> None:
    draw = torch.Generator().manual_seed(1)
    small, large = (nn.Parameter(torch.randn(size, generator=draw)) for size in ((7, 3), (300, 300)))
    start = Start([], [("small", small), ("large", large)])
    assert [kept.numel() <= KEPT for kept in start.kept.values()] == [True, True]
    moved = {"small": small.detach() + 0.5, "large": large.detach() * 1.25}
    change = (0.25 * 21 + (0.25 * large.detach()).square().sum()).sqrt()
    before = torch.cat([small.detach().flatten(), large.detach().flatten()]).norm()
    # 1 in 23 values of the large one is looked at.
    assert start.of_weights(moved) == pytest.approx(float((change / before).detach()), rel=0.03)
    assert start.of_weights({"small": small, "large": large}) == 0


def test_what_rounding_swallows_is_no_change() -> None:
    weight = nn.Parameter(torch.ones(9, dtype=torch.bfloat16))
    start = Start([], [("w", weight)])
    assert start.of_weights({"w": torch.full((9,), 1.001)}) == 0
    assert start.of_weights({"w": torch.full((9,), 1.01)}) == pytest.approx(2**-7)
    assert "changed nothing" in words(0.0)
    assert words(0.0123) == "lie 0.012 of their norm from where they began"
