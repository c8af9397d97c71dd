"""Where numbers stop being finite, and the blocks that names belong to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rlvis.runtime import blocks, non_finite


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 1))


def test_the_innermost_first_module_is_named() -> None:
    net = module()
    with non_finite.watch(net) as first:
        net(torch.ones(1, 2))
    assert first == non_finite.First()
    spoiled = net[1][0].register_forward_hook(lambda part, args, out: out / 0)
    with non_finite.watch(net) as first:
        net(torch.ones(1, 2))
    assert non_finite.agree(first, net) == first == non_finite.First("1.0")
    spoiled.remove()
    with non_finite.watch(net) as first:
        net(torch.full((1, 2), math.nan))
    assert first.module == non_finite.INPUT


def test_weights_and_the_module_itself() -> None:
    net = module()
    with torch.no_grad():
        net[2].bias.fill_(math.inf)
    with non_finite.watch(net) as first:
        net(torch.ones(1, 2))
    assert non_finite.agree(first, net) == non_finite.First("2", weights=True)
    alone = nn.Linear(1, 1)
    alone.register_forward_hook(lambda part, args, out: out * math.nan)
    with non_finite.watch(alone) as first:
        alone(torch.ones(1, 1))
    assert non_finite.agree(first, alone) == non_finite.First("Linear")
    assert not alone._forward_pre_hooks  # nothing is left behind


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("transformer_blocks.3.attn.to_out.0.weight", "transformer_blocks.3"),
        ("down_blocks.0.attentions.1.proj.lora_A.default.weight", "down_blocks.0"),
        ("time_text_embed.linear.weight", "time_text_embed"),
        ("bias", "bias"),
    ],
)
def test_blocks(name: str, block: str) -> None:
    assert blocks.block(name) == block


def test_norms_of_blocks_add_up() -> None:
    norms = blocks.norms([("a.0.w", 3.0), ("a.0.b", 4.0), ("z", 1.0), ("a.1.w", math.nan)])
    assert list(norms) == ["a.0", "z", "a.1"]
    assert (norms["a.0"], norms["z"]) == (5.0, 1.0)
    assert math.isnan(norms["a.1"])
