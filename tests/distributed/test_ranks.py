"""One process and two train alike: a bit-equal first step, and equal weights from the same records, at ZeRO
stages 0 and 2.

3 prompts on 2 ranks: the second group straddles them. Each world size runs in fresh processes; both stages
share one launch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.records import Advantages, PriorState, PromptBatch, RewardHistory
from rlvis.runs import archive
from rlvis.runtime.dist import World
from rlvis.training import pipeline, sampling
from rlvis.training.assemble import assemble
from tests import setting
from tests.distributed.launch import launch

STEPS = 5
STAGES = (0, 2)


def run(world: World, folder: str, root: str) -> dict[str, Any]:
    """The first step of each stage, then STEPS updates on the records that one process saved."""
    values: dict[str, Any] = {}
    for stage in STAGES:
        config = setting.config(
            Path(folder), engine={"stage": stage, "device": "cpu"}, train={"micro_batch": 3}
        )
        parts = assemble(config, world)
        memory = pipeline.Memory(PriorState(kind="none"), RewardHistory())
        if world.size == 1 and stage == STAGES[0]:
            _save_records(parts, memory, Path(root))
            parts.engine.close()
            parts = assemble(config, world)
        prompts, _ = sampling.draw_prompts(parts, 0)
        (shard,) = sampling.local_shards(parts)
        trajectories = sampling.rollout_shard(parts, prompts, shard, 0)
        scores = sampling.score_shard(config, parts.terms, prompts, trajectories)
        rewards = pipeline.score(config, parts.terms, prompts, trajectories, [scores])
        trust, _ = pipeline.weigh(config, prompts, rewards, memory.prior)
        advantages, _ = pipeline.build(config, prompts, rewards, trust, memory.history)
        values[f"{stage}/texts"] = prompts.texts
        values[f"{stage}/states"] = trajectories.states
        values[f"{stage}/logprob"] = trajectories.logprob
        values[f"{stage}/media"] = trajectories.media
        values[f"{stage}/reward"] = rewards.term
        values[f"{stage}/advantage"] = advantages.term
        values[f"{stage}/weights"], values[f"{stage}/first_ratio"] = _replayed(parts, Path(root))
        parts.engine.close()
    return values


def _save_records(parts: pipeline.Parts, memory: pipeline.Memory, root: Path) -> None:
    for step in range(STEPS):
        memory, records = pipeline.train_step(parts, memory, step)
        folder = archive.step_folder(root, step)
        records.prompts.save(folder / "prompts")
        records.advantages.save(folder / "advantages")
        archive.save_local(records.trajectories, folder, "trajectories", parts.world)


def _replayed(parts: pipeline.Parts, root: Path) -> tuple[torch.Tensor, float]:
    """Weights after updating on the saved records, and the largest |ratio - 1| before the first update."""
    first = []
    for step in range(STEPS):
        folder = archive.step_folder(root, step)
        prompts = PromptBatch.load(folder / "prompts")
        trajectories = archive.load_trajectories(folder, parts.world, 12, 4)
        done = pipeline.update(parts, prompts, trajectories, Advantages.load(folder / "advantages"))
        first.append(done.metrics["ratio/max_deviation_first"])
    return torch.cat([value.flatten().cpu().clone() for _, value in parts.engine.masters()]), first[0]


@pytest.fixture(scope="module")
def results(sd3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("records")
    return {size: launch(run, size, str(sd3_folder), str(root)) for size in (1, 2)}


@pytest.mark.parametrize("stage", STAGES)
def test_the_first_step_is_bit_equal(results: dict[int, list[dict[str, Any]]], stage: int) -> None:
    one, two = results[1][0], results[2]
    assert one[f"{stage}/texts"] == two[0][f"{stage}/texts"] == two[1][f"{stage}/texts"]
    for name in ("states", "logprob", "media"):  # local rows: 6 and 6, the second group 2 + 2
        assert torch.equal(one[f"{stage}/{name}"], torch.cat([rank[f"{stage}/{name}"] for rank in two])), name
    for name in ("reward", "advantage"):  # global and equal everywhere
        for rank in two:
            assert torch.equal(one[f"{stage}/{name}"], rank[f"{stage}/{name}"]), name


def test_stages_start_alike(results: dict[int, list[dict[str, Any]]]) -> None:
    for name in ("states", "reward", "advantage"):
        assert torch.equal(results[1][0][f"0/{name}"], results[1][0][f"2/{name}"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", [1, 2])
def test_weights_after_the_same_records_agree(
    results: dict[int, list[dict[str, Any]]], stage: int, size: int
) -> None:
    """Adam amplifies gradients near zero: hence 1e-4 at most, while the mean must be far below."""
    base = results[1][0]["0/weights"]
    for rank in results[size]:
        difference = (rank[f"{stage}/weights"] - base).abs()
        assert difference.max() < 1e-4
        assert difference.mean() < 1e-7


def test_the_ratio_starts_at_one_on_any_number_of_ranks(results: dict[int, list[dict[str, Any]]]) -> None:
    for ranks in results.values():
        for rank in ranks:
            assert [rank[f"{stage}/first_ratio"] for stage in STAGES] == [0.0, 0.0]


def test_the_weights_moved(results: dict[int, list[dict[str, Any]]], sd3_folder: Path) -> None:
    policy = setting.policy(setting.config(sd3_folder))
    start = torch.cat([p.detach().flatten() for _, p in policy.trainable()])
    assert (results[1][0]["0/weights"] - start).abs().mean() > 1e-4
