"""How far trained weights lie from where they began: the norm of the change over the norm of the weights.

A LoRA's change is the product of its factors, against the weights of the layers that it is added to. Of whole
weights a few of each tensor are remembered, evenly spread, in the dtype that they are exported in, so that a
step which rounding swallowed counts as none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.models.lora import A, B

KEPT = 4096  # values of a tensor, at most


class Start:
    """The weights of some denoisers as they are now: before they are trained, and an engine cuts them."""

    def __init__(self, denoisers: Iterable[nn.Module], trained: Iterable[tuple[str, nn.Parameter]]) -> None:
        """trained: of a full fine-tuning; of a LoRA its adapters, which are not looked at."""
        layers: list[Any] = [m for denoiser in denoisers for m in denoiser.modules() if hasattr(m, "lora_A")]
        bases = [layer.base_layer.weight for layer in layers if not layer.base_layer.weight.is_meta]
        self.norm = sum((_square(weight) for weight in bases), torch.zeros(())).sqrt().item()
        self.kept: dict[str, Tensor] = {}
        if not bases:
            self.kept = {name: _some(p).detach().cpu() for name, p in trained if not p.is_meta}

    def of_lora(self, factors: Iterable[Mapping[str, Tensor]]) -> float:
        """Of exported factors (`lora.exported`), of each denoiser."""
        total = 0.0
        for each in factors:
            for name in (name for name in each if name.endswith(A)):
                down = each[name].flatten(1).double()
                up = each[name.removesuffix(A) + B].flatten(1).double()
                total += float(((up.T @ up) * (down @ down.T)).sum())  # the product's, without making it
        return _ratio(max(total, 0.0) ** 0.5, self.norm)

    def of_weights(self, weights: Mapping[str, Tensor]) -> float:
        """Of whole weights by name."""
        change = before = 0.0
        for name, kept in self.kept.items():
            counts = weights[name].numel() / kept.numel()
            now = _some(weights[name]).to(kept.dtype)
            change += counts * float((now.double() - kept.double()).square().sum())
            before += counts * float(kept.double().square().sum())
        return _ratio(change**0.5, before**0.5)


def words(distance: float) -> str:
    """A distance as it is told."""
    if distance == 0:
        return "lie where they began: training changed nothing in them"
    return f"lie {distance:.2g} of their norm from where they began"


def _ratio(change: float, norm: float) -> float:
    return change / norm if norm > 0 else change


def _square(weight: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(weight.detach(), dtype=torch.float32)
    return norm.square().cpu()


def _some(weight: Tensor) -> Tensor:
    """Evenly spread values; the stride is odd, so that it does not follow a column."""
    flat: Tensor = weight.detach().flatten()
    stride = -(-flat.numel() // KEPT) | 1
    return flat[::stride].clone()
