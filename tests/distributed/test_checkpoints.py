"""Two ranks write one checkpoint in the background and read it back; both learn when one fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlvis.checkpoints import files, state
from rlvis.checkpoints.state import Saver
from rlvis.models.ema import Ema
from rlvis.records import PriorState
from rlvis.runtime import snapshot
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.schema import Dtype, EngineConfig, OptimConfig
from tests.distributed.launch import launch

STAGES = (0, 2, 3)
MEMORY = {"prior": PriorState(kind="none")}


def engine_of(world: World, stage: int) -> Engine:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 15), nn.Tanh(), nn.Linear(15, 3))
    return Engine(module, EngineConfig(stage=stage, device="cpu"), OptimConfig(lr=1e-2), Dtype.float32, world)


def trained(engine: Engine, world: World, step: int) -> dict[str, torch.Tensor]:
    """The weights after one step."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step + 10 * world.rank))
    engine.backward(engine(x).square().sum(), last=True)
    engine.step()
    return {name: value.clone() for name, value in engine.masters()}


def saving(world: World, root: str) -> dict[int, dict[str, Any]]:
    results: dict[int, dict[str, Any]] = {}
    for stage in STAGES:
        run = Path(root) / f"stage_{stage}"
        if world.is_main:
            run.mkdir()
            (run / "config.yaml").touch()
        engine = engine_of(world, stage)
        ema = Ema(engine.masters(), decay=0.5)
        with Saver(run, engine, ema, world, keep=1) as saver:
            trained(engine, world, 0)
            saver.save(1, MEMORY)
            at_two = trained(engine, world, 1)
            saver.save(2, MEMORY)
            ahead = trained(engine, world, 2)  # while it is written
            fine = saver.settle()
            after_failure = _failed(saver, world)
        other = engine_of(world, stage)
        loaded = state.load(
            files.choose(run), other, Ema(other.masters(), decay=0.5), {"prior": PriorState}, world
        )
        back = {name: value.clone() for name, value in other.masters()}
        results[stage] = {
            "step": loaded.step,
            "fine": fine,
            "failed": after_failure,
            "back": all(torch.equal(back[k], at_two[k]) for k in back),
            "ahead": all(torch.equal(v, ahead[k]) for k, v in trained(other, world, 2).items()),
            "folders": sorted(os.listdir(run / "checkpoints")),
        }
        engine.close()
        other.close()
    return results


def _failed(saver: Saver, world: World) -> bool:
    """Whether this rank learns that rank 1 could not write, and that the next save works again."""
    write = snapshot.write

    def full(taken: Any, folder: Path) -> list[str]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if world.rank == 1:
        snapshot.write = full
    saver.save(3, MEMORY)
    learned = not saver.settle()
    snapshot.write = write
    return learned


@pytest.mark.slow
def test_two_ranks_save_and_load_and_both_learn_of_a_failure(tmp_path: Path) -> None:
    for rank in launch(saving, 2, str(tmp_path)):
        for stage in STAGES:
            assert rank[stage] == {
                "step": 2,
                "fine": True,
                "failed": True,
                "back": True,
                "ahead": True,
                "folders": ["latest", "step_000002"],
            }, stage
