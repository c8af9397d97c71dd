"""Scores and scorers: hand-made faults, each caught, and honest scorers that are left in peace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.doctor.canaries import canaries
from rlvis.doctor.probe import Probe
from rlvis.doctor.rewards import rewards
from rlvis.findings import Finding
from rlvis.records import PriorState
from rlvis.reward.contract import Term
from rlvis.reward.scorers.jpeg_compressibility import jpeg_compressibility
from rlvis.reward.scorers.noisy import Noisy
from rlvis.training import pipeline, sampling
from rlvis.training.parts import Parts
from tests.doctor import cases
from tests.doctor.cases import brightness


@pytest.fixture(scope="module")
def probe(sd3_folder: Path) -> Probe:
    """3 prompts x 8 samples, scored by brightness."""
    return cases.probed(cases.make(sd3_folder, data={"samples_per_prompt": 8}, train={"micro_batch": 24}))


def scored(probe: Probe, *terms: Term, **groups: Any) -> Probe:
    """The same samples under other terms."""
    parts: Parts = replace(cases.replaced(probe.parts, **groups), terms=list(terms))
    shard = probe.trajectories.replace(media=probe.media)
    local = sampling.score_shard(parts.config, parts.terms, probe.prompts, shard)
    scores = pipeline.score(parts.config, parts.terms, probe.prompts, probe.trajectories, [local])
    return replace(probe, parts=parts, rewards=scores)


def canary_finding(probe: Probe, function: Any) -> Finding:
    """What the canaries say of one scorer."""
    (finding,) = canaries(scored(probe, cases.term(function)))
    return finding


def one_value(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
    return torch.full((len(images),), 0.5)


def test_a_constant_reward_is_a_failure(probe: Probe) -> None:
    finding = cases.one(rewards(scored(probe, cases.term(one_value))), "reward own")
    assert finding.severity == "failure"
    assert "24 scores from 0.5 to 0.5" in finding.what
    beside = rewards(scored(probe, cases.term(brightness), cases.term(one_value, "flat")))
    assert cases.one(beside, "reward flat").severity == "warning"
    assert cases.one(beside, "reward own").severity == "ok"


def test_groups_without_a_difference_are_counted(probe: Probe) -> None:
    def by_prompt(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
        return torch.tensor([float(len(p)) + hash(p) % 7 for p in prompts])

    finding = cases.one(rewards(scored(probe, cases.term(by_prompt))), "reward groups")
    assert (finding.severity, finding.numbers["equal_groups"]) == ("warning", 3)
    assert "3 of 3 groups" in finding.what


@pytest.mark.parametrize(("bad", "level"), [(3, "warning"), (20, "failure"), (24, "failure")])
def test_samples_without_a_score_are_told(probe: Probe, bad: int, level: str) -> None:
    def some(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
        score = brightness(images, prompts, metadata)
        score[score.argsort()[:bad]] = torch.nan
        return score

    finding = cases.one(rewards(scored(probe, cases.term(some))), "reward own")
    assert finding.severity == level
    assert f"{bad} of 24 samples have no score" in finding.what


def test_a_scorer_that_raises_is_told(probe: Probe) -> None:
    def swapped(prompts: list[str], images: Tensor, metadata: list[Any]) -> Tensor:
        return prompts.upper()  # type: ignore[attr-defined,no-any-return]  # arguments in another order

    faulty = scored(probe, cases.term(swapped))
    assert cases.one(rewards(faulty), "reward own").severity == "failure"
    assert canaries(faulty)[0].severity == "ok"  # nothing to ask about; one finding is enough


def test_one_term_that_decides_alone_is_told(probe: Probe) -> None:
    small = cases.term(lambda i, p, m: -brightness(i, p, m), "small", 1e-3)
    uneven = scored(probe, cases.term(brightness, "big"), small)
    finding = cases.one(rewards(uneven), "reward scale")
    assert finding.severity == "warning"
    assert "reward.terms.big.weight=0.001" in finding.type
    apart = scored(probe, cases.term(brightness, "big"), small, advantage={"combine": S.Combine.gdpo})
    assert not [f for f in rewards(apart) if f.name == "reward scale"]  # each has its own scale there
    even = scored(probe, cases.term(brightness, "big"), replace(small, weight=1.0))
    assert cases.one(rewards(even), "reward scale").severity == "ok"


@pytest.mark.parametrize(
    ("form", "value", "level", "typed"),
    [
        ("gated", 10.0, "warning", "trust.crt.form=exp, or a reward"),
        ("gated", 0.1, "ok", ""),
        ("exp", 10.0, "warning", "trust.crt.monotone=true"),
        ("exp", 0.1, "ok", ""),
    ],
)
def test_a_contrast_that_turns_samples_around_is_told(
    probe: Probe, form: str, value: float, level: str, typed: str
) -> None:
    trust = {"crt": S.CrtConfig(form=S.CrtForm(form))}
    prior = {"kind": "constant", "value": value}
    told = scored(probe, cases.term(brightness), trust=trust, prior=prior)
    judged, _ = pipeline.weigh(told.parts.config, told.prompts, told.rewards, PriorState(kind="constant"))
    finding = cases.one(rewards(replace(told, trust=judged)), "reward order")
    assert finding.severity == level, str(finding)
    assert typed in finding.type
    assert not [f for f in rewards(probe) if f.name == "reward order"]  # without a contrast


def test_time_is_told_for_a_whole_step(probe: Probe) -> None:
    slow = replace(probe, seconds={"score": 30.0, "rollout": 1.0})
    finding = cases.one(rewards(slow), "reward time")
    assert finding.severity == "warning"
    assert finding.numbers["score_seconds"] == 30.0  # the probe is a whole step here
    half = replace(slow, samples_of_a_step=48)
    assert cases.one(rewards(half), "reward time").numbers["score_seconds"] == 60.0


@pytest.mark.parametrize("scorer", [brightness, jpeg_compressibility])
def test_honest_scorers_are_left_in_peace(probe: Probe, scorer: Any) -> None:
    finding = canary_finding(probe, scorer)
    assert finding.severity == "ok", str(finding)
    assert finding.numbers["noise_std"] == 0.0


def test_it_is_said_whether_a_scorer_looks_at_prompts(probe: Probe) -> None:
    assert "does not look at prompts" in canary_finding(probe, jpeg_compressibility).what
    assert "with their own prompts" in canary_finding(probe, brightness).what


def turned(score: Tensor) -> Tensor:
    return score.flip(0)


def shifted(score: Tensor) -> Tensor:
    return score.roll(1)


def ranked(score: Tensor) -> Tensor:
    return score.sort().values


def shuffled(score: Tensor) -> Tensor:
    return score[torch.randperm(len(score))]


@pytest.mark.parametrize("mixed", [turned, shifted, ranked, shuffled])
def test_rows_that_are_mixed_up_are_found(probe: Probe, mixed: Any) -> None:
    finding = canary_finding(probe, lambda i, p, m: mixed(brightness(i, p, m)))
    assert finding.severity == "failure", str(finding)
    assert "another order" in finding.what or "other samples" in finding.what


def test_a_score_that_depends_on_its_neighbours_is_found(probe: Probe) -> None:
    def standardised(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
        score = brightness(images, prompts, metadata)
        return (score - score.mean()) / score.std(correction=0).clamp(min=1e-6)

    finding = canary_finding(probe, standardised)
    assert finding.severity == "warning"
    assert "alone" in finding.what


def test_noise_is_measured_and_not_taken_for_a_mix_up(probe: Probe) -> None:
    inside = canary_finding(probe, brightness).numbers["within"]
    for size, level in ((0.3, "ok"), (3.0, "warning")):
        drawn = torch.Generator().manual_seed(1)

        def noisy(
            i: Tensor, p: list[str], m: list[Any], size: float = size, drawn: torch.Generator = drawn
        ) -> Tensor:
            return brightness(i, p, m) + size * inside * torch.randn(len(i), generator=drawn)

        finding = canary_finding(probe, noisy)
        assert finding.severity == level, str(finding)
        # 16 differences: their root mean square lies within a half of the truth.
        assert finding.numbers["noise_std"] == pytest.approx(size * inside, rel=0.5)  # type: ignore[operator]


@pytest.mark.parametrize("who", ["all", 0.4])
def test_noise_that_a_scorer_reports_is_no_fault(probe: Probe, who: Any) -> None:
    term = Term("own", Noisy("tests.doctor.cases.brightness", who=who, std=0.5), 1.0)
    (finding,) = canaries(scored(probe, term))
    assert finding.severity == "ok", str(finding)


def test_few_questions_to_a_slow_scorer(probe: Probe) -> None:
    calls: list[int] = []

    def counted(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
        calls.append(len(images))
        return brightness(images, prompts, metadata)

    counting = scored(probe, cases.term(counted))
    calls.clear()
    canaries(replace(counting, rewards=counting.rewards.replace(latency=(24 * 60.0,))))
    assert calls == [2, 2, 2, 1, 1, 2]
    calls.clear()
    canaries(counting)
    assert calls == [16, 16, 16, 1, 1, 1, 1, 16]
