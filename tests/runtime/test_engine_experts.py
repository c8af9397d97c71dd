"""Parameters that a step does not meet have a gradient of zero at every ZeRO stage, on one rank or two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.schema import Dtype, EngineConfig, OptimConfig
from tests.distributed.launch import launch

OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1, grad_norm=1e6)
# What each backward of each step meets. ZeRO-3 would repeat the gradients of step 0 in steps 2 and 3.
STEPS = (("a", "b"), ("b", "a"), ("a", "a"), ("b",), ("a", "b", "b"), ("both", "a"), ("b", "both"))
Weights = dict[str, Tensor]


class Two(nn.Module):
    """Two small networks of which a forward runs one, or both."""

    partly_used = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(8, 15), nn.Tanh(), nn.Linear(15, 3))
        self.b = nn.Sequential(nn.Linear(8, 15), nn.Tanh(), nn.Linear(15, 3))

    def forward(self, x: Tensor, which: str) -> Tensor:
        if which == "both":
            return torch.where(x[:, :1] > 0, self.a(x), self.b(x))
        output: Tensor = getattr(self, which)(x)
        return output


def loss(model: nn.Module | Engine, step: int, i: int, rows: slice) -> Tensor:
    """Sum over the given rows of 4."""
    draw = torch.Generator().manual_seed(100 + 10 * step + i)
    x, y = torch.randn(4, 8, generator=draw), torch.randn(4, 3, generator=draw)
    total: Tensor = (model(x[rows], STEPS[step][i]) - y[rows]).square().sum()
    return total


def plain() -> Weights:
    """The steps by torch alone, with gradients of zero where nothing was met."""
    model = Two()
    adamw = torch.optim.AdamW(model.parameters(), lr=OPTIM.lr, weight_decay=OPTIM.weight_decay, eps=OPTIM.eps)
    for step, passes in enumerate(STEPS):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for i in range(len(passes)):
            torch.autograd.backward(loss(model, step, i, slice(None)) / 8)
        adamw.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def engines(world: World, stages: list[int]) -> list[Weights]:
    """The steps by the engine at each stage: the masters at the end."""
    weights = []
    size = 4 // world.size
    mine = slice(world.rank * size, (world.rank + 1) * size)
    for stage in stages:
        engine = Engine(Two(), EngineConfig(stage=stage), OPTIM, Dtype.float32, world)
        for step, passes in enumerate(STEPS):
            for i in range(len(passes)):
                share = loss(engine, step, i, mine) / 8 * world.size
                engine.backward(share, last=i == len(passes) - 1)
            engine.step()
        weights.append({name: value.clone() for name, value in engine.masters()})
        engine.close()
    return weights


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield dist.start("cpu")
    dist.stop()


def furthest(a: Weights, b: Weights) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_expert_that_is_not_met_gets_no_gradient(world: World, stage: int) -> None:
    assert furthest(plain(), engines(world, [stage])[0]) < 1e-6


@pytest.mark.slow
def test_on_two_ranks() -> None:
    for ranks in zip(*launch(engines, 2, [0, 1, 2, 3], seconds=600), strict=True):
        assert all(furthest(plain(), weights) < 1e-6 for weights in ranks)


@pytest.mark.parametrize("stage", [2, 3])
def test_offloading_the_optimizer_is_refused(world: World, stage: int, tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    zero = {"stage": stage, "offload_optimizer": {"device": "cpu"}}
    file.write_text(json.dumps({"zero_optimization": zero}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"offload_optimizer.*gradients of the last backward alone"):
        Engine(Two(), EngineConfig(config=str(file)), OPTIM, Dtype.float32, world)
