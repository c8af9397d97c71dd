"""A refill on two ranks, of which one has three times as many failed samples, gives the bits of one rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.training import pipeline
from rlvis.training.assemble import assemble
from tests import setting
from tests.distributed.launch import launch
from tests.training.test_refill import flaky, memory


def refilled(world: World, folder: str) -> dict[str, Any]:
    config = setting.config(Path(folder), train={"micro_batch": 2, "shard": 4})
    config = replace(config, reward=replace(config.reward, refill=1))
    parts = flaky(assemble(config, world))
    _, records = pipeline.train_step(parts, memory(), 0)
    parts.engine.close()
    return {
        "refilled": records.refilled,
        "valid": records.rewards.valid,
        "reward": records.rewards.term,
        "advantage": records.advantages.term,
        "states": records.trajectories.states,
        "logprob": records.trajectories.logprob,
        "redraw": records.trajectories.redraw,
    }


@pytest.mark.slow
def test_two_ranks_refill_as_one(sd3_folder: Path) -> None:
    two = launch(refilled, 2, str(sd3_folder))
    one = refilled(dist.start("cpu"), str(sd3_folder))
    dist.stop()
    assert bool(one["valid"].all())
    assert [rank["redraw"].tolist() for rank in two] == [[0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0]]
    for name in ("states", "logprob", "redraw"):
        assert torch.equal(one[name], torch.cat([rank[name] for rank in two])), name
    for rank in two:
        assert rank["refilled"] == one["refilled"] == 4
        assert torch.equal(rank["reward"], one["reward"])
        assert torch.equal(rank["advantage"], one["advantage"])
