"""Refill: failed samples are drawn afresh by noise of their own; without it they are masked as by hand."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.advantage.maps.psm import Allocation
from rlvis.records import PriorState, RewardHistory, Rewards
from rlvis.reward.contract import Scores, Term
from rlvis.reward.stage import LocalScores
from rlvis.rollout import plan as sampling_plan
from rlvis.rollout.stage import rollout
from rlvis.runtime import dist
from rlvis.training import loop, pipeline, sampling
from rlvis.training.assemble import assemble
from rlvis.training.parts import Hooks
from rlvis.training.rollout_batch import RolloutBatch
from tests import setting

BAD = [1, 6, 7, 10]  # of 3 prompts x 4 samples


def digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()


def brightness(images: Tensor) -> Tensor:
    return images.double().mean((1, 2, 3, 4))


def failing(bad: set[bytes]) -> Term:
    """Brightness, but nothing for the pictures of `bad`."""

    def score(images: Tensor, prompts: Any, metadata: Any) -> Scores:
        value = brightness(images)
        value[[i for i, image in enumerate(images) if digest(image) in bad]] = math.nan
        return Scores(value, torch.isfinite(value))

    return Term("flaky", score, 1.0)


def drawn(parts: pipeline.Parts, rows: list[int], redraw: int = 0) -> Any:
    """Those samples of step 0, with media, whatever rank owns them."""
    prompts, _ = sampling.draw_prompts(parts, 0)
    plan = sampling_plan.make(parts.policy, parts.config, 0, redraw)
    return rollout(parts.policy, parts.engine, prompts, rows, plan)


def flaky(parts: pipeline.Parts, rows: list[int] = BAD) -> pipeline.Parts:
    """The run with a scorer that fails on those first draws of step 0."""
    media = drawn(parts, rows).media
    return replace(parts, terms=[failing({digest(image) for image in media})])


def memory() -> pipeline.Memory:
    return pipeline.Memory(PriorState(kind="none"), RewardHistory())


@pytest.fixture
def parts_of(sd3_folder: Path) -> Any:
    """(refill, groups of a configuration) -> a run whose scorer fails on BAD."""
    world, engines = dist.start("cpu"), []

    def make(refill: int, **groups: Any) -> pipeline.Parts:
        config = setting.config(sd3_folder, **groups)
        config = replace(config, reward=replace(config.reward, refill=refill))
        parts = flaky(assemble(config, world))
        engines.append(parts.engine)
        return parts

    yield make
    for engine in engines:
        engine.close()
    dist.stop()


def test_failed_samples_are_drawn_afresh(parts_of: Callable[..., pipeline.Parts]) -> None:
    parts = parts_of(1, train={"shard": 5})
    whole, fresh = drawn(parts, list(range(12))), drawn(parts, BAD, redraw=1)
    _, records = pipeline.train_step(parts, memory(), 0, Hooks(keep_thumbnails=True))
    assert bool(records.rewards.valid.all())
    assert records.refilled == len(BAD)
    wanted = brightness(whole.media)
    wanted[BAD] = brightness(fresh.media)
    assert torch.equal(records.rewards.term.flatten(), wanted)
    good = [row for row in range(12) if row not in BAD]
    samples = records.trajectories
    assert torch.equal(samples.states[good], whole.states[good])
    assert torch.equal(samples.states[BAD], fresh.states)
    assert not torch.equal(fresh.states, whole.states[BAD])
    assert samples.redraw is not None
    assert samples.redraw.nonzero()[:, 0].tolist() == BAD
    assert records.thumbnails is not None
    assert torch.equal(records.thumbnails[BAD], fresh.media)
    assert torch.equal(records.thumbnails[good], whole.media[good])
    assert records.update.metrics["ratio/max_deviation_first"] == 0.0
    assert {"refill", "rollout", "score"} <= records.seconds.keys()


def test_without_refill_a_failed_sample_is_one_marked_by_hand(
    parts_of: Callable[..., pipeline.Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(0)
    _, ours = pipeline.train_step(parts, memory(), 0)
    weights = [value.clone() for _, value in parts.engine.masters()]
    other = replace(parts_of(0), terms=[failing(set())])
    collect = pipeline.score

    def marked(*args: Any) -> Rewards:
        rewards = collect(*args)
        valid = rewards.valid.clone()
        valid.view(-1)[BAD] = False
        return rewards.replace(valid=valid)

    monkeypatch.setattr(pipeline, "score", marked)
    _, theirs = pipeline.train_step(other, memory(), 0)
    assert ours.refilled == 0
    assert ours.rewards.valid.flatten().logical_not().nonzero()[:, 0].tolist() == BAD
    assert torch.equal(ours.advantages.term, theirs.advantages.term)
    assert torch.equal(ours.advantages.keep, theirs.advantages.keep)
    assert all(torch.equal(a, b) for a, (_, b) in zip(weights, other.engine.masters(), strict=True))
    assert bool((ours.advantages.term != 0).any())


def test_what_stays_invalid_is_masked_after_the_last_round(parts_of: Callable[..., pipeline.Parts]) -> None:
    def never(images: Tensor, prompts: Any, metadata: Any) -> Scores:
        value = torch.where(torch.tensor([p == "never" for p in prompts]), math.nan, brightness(images))
        return Scores(value, torch.isfinite(value))

    parts = parts_of(2)
    prompts, _ = sampling.draw_prompts(parts, 0)
    texts = ("never", *prompts.texts[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "draw_prompts", lambda parts, step: (prompts.replace(texts=texts), 0))
        _, records = pipeline.train_step(replace(parts, terms=[Term("t", never, 1.0)]), memory(), 0)
    assert records.rewards.valid.tolist() == [[False] * 4, [True] * 4, [True] * 4]
    assert records.refilled == 8
    assert records.advantages.keep.sum() == 8


@pytest.mark.parametrize("share", [False, True])
def test_a_group_that_shares_its_noise_keeps_it(parts_of: Callable[..., pipeline.Parts], share: bool) -> None:
    parts = parts_of(1, sampler={"share_noise": share, "steps": 5})
    before, after = (drawn(parts, [4, 5], redraw=number).states for number in (0, 1))
    assert torch.equal(before[:, 0], after[:, 0]) is share
    assert torch.equal(before[0, 0], before[1, 0]) is share
    assert not torch.equal(before[0, 1], after[0, 1])


def test_guard_knows_the_noise_of_fresh_samples(parts_of: Callable[..., pipeline.Parts]) -> None:
    """It draws the rollout's noise once more; by the names of the first draw the means would be far apart."""
    guard = {"guard": S.GuardConfig()}
    parts = parts_of(1, advantage=guard)
    _, records = pipeline.train_step(parts, memory(), 0)
    assert records.refilled == len(BAD)
    wrong = records.trajectories.replace(redraw=None)
    again = replace(parts_of(1, advantage=guard), terms=parts.terms)
    first = {}
    for name, trajectories in (("right", records.trajectories), ("wrong", wrong)):
        done = pipeline.update(again, records.prompts, trajectories, records.advantages)
        first[name] = done.metrics["ratio/max_deviation_first"]
    assert records.update.metrics["ratio/max_deviation_first"] < 1e-4  # means agree to rounding
    assert first["right"] < 1e-4 < 1e-2 < first["wrong"]


def scores_of(values: list[float], noise: bool) -> LocalScores:
    value = torch.tensor(values, dtype=torch.float64)[:, None]
    spread = 2 * value if noise else None
    return LocalScores(value, value[:, 0].isfinite(), spread, spread, (1.5,), {"t/raised": 1}, 2)


def test_pieces_join_with_their_noise_and_counts() -> None:
    both = LocalScores.concatenate([scores_of([1.0, 2.0], noise=False), scores_of([3.0], noise=True)])
    assert both.value[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert both.noise_var is not None
    assert both.noise_var[:, 0].isnan().tolist() == [True, True, False]
    assert (both.latency, both.failures, both.retried) == ((3.0,), {"t/raised": 2}, 4)
    assert LocalScores.concatenate([scores_of([1.0], noise=False)]).noise_var is None


def test_maps_go_with_their_rows(parts_of: Callable[..., pipeline.Parts]) -> None:
    parts = parts_of(0)
    some, fresh = (drawn(parts, rows).replace(media=None) for rows in ([0, 1, 2], [5, 6]))

    def ones(rows: int, value: float) -> Allocation:
        return Allocation(torch.full((rows, 1, 8, 8), value), torch.zeros(rows, dtype=torch.bool))

    old = RolloutBatch.concatenate([some], [scores_of([1, 2, 3], noise=True)], [ones(3, 0.0)])
    put = old.replace_rows(
        [2, 0], RolloutBatch.concatenate([fresh], [scores_of([4, 5], noise=True)], [ones(2, 1.0)])
    )
    assert put.scores.value[:, 0].tolist() == [5.0, 2.0, 4.0]
    assert put.maps is not None
    assert put.maps.map[:, 0, 0, 0].tolist() == [1.0, 0.0, 1.0]
    assert (put.trajectories.sample.tolist(), put.trajectories.prompt.tolist()) == ([2, 1, 1], [1, 0, 1])
    assert old.replace_rows([], fresh) is old


def test_a_run_counts_what_it_drew_afresh_and_what_was_cached(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The darkest picture of a call of twelve has no score; one that is asked about alone has."""
    (tmp_path / "scorer_that_fails.py").write_text(
        "def judge(images, prompts, metadata):\n"
        "    value = images.double().mean((1, 2, 3, 4))\n"
        "    return [None if v == value.min() and len(value) == 12 else float(v) for v in value]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reward = {
        "terms": {"judge": S.RewardTerm("scorer_that_fails.judge")},
        "refill": 1,
        "cache": str(tmp_path / "cache"),
    }
    config = setting.config(sd3_folder, reward=reward, train={"steps": 1, "updates_per_step": 1})
    for name in ("one", "two"):
        config.run_dir = str(tmp_path / name)
        assert loop.train(config, []).exit_code == 0
    one, two = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        for name in ("one", "two")
    )
    assert (one["reward/refilled"], one["reward/invalid_count"], one["reward/judge/cached"]) == (1, 0, 0)
    assert 0 < one["time/refill"] < one["time/step"]
    # The second run asks for the failed one alone, which is then no call of twelve: nothing fails.
    assert (two["reward/refilled"], two["reward/judge/cached"]) == (0, pytest.approx(11 / 12))
