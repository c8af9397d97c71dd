"""Canaries for scorers: the same samples again, in another order, alone, and with the prompts of others.

A scorer is asked four times about a few samples of the probe and once about each alone. Its own noise comes
first: what two equal questions differ by is not held against it afterwards. Nothing here reaches the run:
the global random generators are put back by the examination, and rlvis' own scorers keep no other state
about pictures that the run never makes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.doctor.diagnosis import FAILURE, OK, WARNING, Finding, Number
from rlvis.doctor.probe import Probe
from rlvis.doctor.rewards import spread
from rlvis.reward import cache, stage
from rlvis.reward.contract import Term
from rlvis.runtime import dist, rng
from rlvis.trust.groups import statistics

ROWS = 16  # samples of a rank that are asked about
ALONE = 4  # of them one by one
SECONDS = 20.0  # that the questions to one scorer may take, by its pace on the probe
FAR = 0.1  # of the scores' spread: a difference that is no rounding
TIMES = 4.0  # the scorer's own noise: a difference that is not that either


@dataclass(frozen=True)
class Answers:
    """Scores of the same samples, each float64 [n] over all ranks with NaN where there is none: asked, asked
    again, in another order (put back), alone (the first of each rank), with the prompts of others.
    """

    first: Tensor
    again: Tensor
    moved: Tensor
    alone: Tensor
    others: Tensor


def canaries(probe: Probe) -> list[Finding]:
    """A finding for each term and question that came out wrong, or one that says how it takes prompts; a
    collective.
    """
    made: list[Finding] = []
    for i, term in enumerate(probe.parts.terms):
        answers = _asked(probe, term, probe.rewards.latency[i])
        column = probe.rewards.term[..., i]
        good = torch.isfinite(column)
        inside = float(spread(statistics(torch.where(good, column, 0.0)[..., None], good)))
        whole = float(column[good].std()) if int(good.sum()) > 1 else 0.0
        said = probe.rewards.noise_var
        told = said is not None and bool(torch.isfinite(said[..., i]).any())
        made.append(judged(term.name, answers, inside, whole, told))
    return made


def _asked(probe: Probe, term: Term, seconds: float) -> Answers:
    """All questions to one term on this rank's samples, joined over ranks."""
    prompts, mine = probe.prompts, probe.trajectories.prompt.tolist()
    pace = seconds / max(1, len(mine))
    most = int(SECONDS / (4 * pace + 1e-9))
    count = min(len(mine), ROWS, max(2, most))
    rows = [i * len(mine) // count for i in range(count)]
    media, own = probe.media[rows], [mine[i] for i in rows]
    other = [(p + 1) % prompts.rows for p in own]
    order = rng.generator(0, count, "doctor: order").permutation(count).tolist()
    retries = probe.parts.config.train.score_retries
    asked = cache.bare([term])  # a cache would give every answer twice

    def ask(picked: Sequence[int], chosen: Sequence[int]) -> Tensor:
        if dist.repeats():
            return torch.full((len(picked),), math.nan, dtype=torch.float64)
        texts = [prompts.texts[chosen[i]] for i in picked]
        metadata = [prompts.metadata[chosen[i]] for i in picked]
        return stage.score(asked, texts, metadata, media[list(picked)], retries).value[:, 0]

    every = list(range(count))
    with _quiet():
        first, again = ask(every, own), ask(every, own)
        moved = torch.empty_like(first)
        moved[order] = ask(order, own)
        alone = torch.full_like(first, math.nan)
        for i in every[:ALONE]:
            alone[i] = ask([i], own)[0]
        others = ask(every, other)
    table = dist.all_gather_rows(torch.stack([first, again, moved, alone, others], dim=1))
    return Answers(*table.unbind(1))


@contextmanager
def _quiet() -> Iterator[None]:
    """What the scorers could not judge was said once already, when the probe was scored."""
    before = stage.log.level
    stage.log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        stage.log.setLevel(before)


def judged(name: str, answers: Answers, inside: float, whole: float, told: bool) -> Finding:
    """One scorer's answers.

    inside, whole: standard deviation of its scores inside groups and over all samples of the probe. told:
    whether it reports its own noise.
    """
    check = f"scorer {name}"
    key = f"reward.terms.{name}.scorer"
    noise = _differences(answers.again, answers.first)
    if len(noise) < 2:
        return Finding(check, OK, "too few scores to ask about")
    rough = max(FAR * whole, TIMES * float(noise.max()), 1e-9 * float(answers.first.nan_to_num().abs().max()))
    std = float(noise.square().mean().sqrt()) / math.sqrt(2)
    swapped = int((_differences(answers.moved, answers.first) > rough).sum())
    lone = _differences(answers.alone, answers.first)
    numbers: dict[str, Number] = {"asked": len(noise), "noise_std": std, "within": inside}
    if swapped >= max(2, len(noise) // 4) or _shuffled(answers.first, answers.again):
        numbers["moved"] = swapped
        what = f"{swapped} of {len(noise)} scores change when the same samples come in another order"
        if not swapped:
            what = "two equal calls give the same scores to other samples"
        why = "scores reach other samples than they were made for: the policy is taught by chance"
        kind = f"{key}=SCORER that returns scores in the order of its images"
        return Finding(check, FAILURE, what, numbers, why, kind)
    if len(lone) and int((lone > rough).sum()) * 2 > len(lone):
        numbers["alone"] = float(lone.max())
        what = f"a sample alone scores up to {float(lone.max()):.3g} otherwise than among others"
        why = "a score that depends on its neighbours changes with the micro-batch and the number of ranks"
        kind = f"{key}=SCORER that judges every sample for itself"
        return Finding(check, WARNING, what, numbers, why, kind)
    told_noise = f"noise of {std:.3g} between equal calls ({inside:.3g} inside groups)"
    if std > inside and not told:
        why = "the differences inside a group are the scorer's mood more than the samples'"
        kind = f"{key}=SCORER that averages several calls, or trust=ras prior=moving_average"
        return Finding(check, WARNING, told_noise, numbers, why, kind)
    what = f"{len(noise)} scores stay the same again, reordered and alone" if std == 0 else told_noise
    return Finding(check, OK, f"{what}; {_prompts(answers, rough, numbers)}", numbers)


def _prompts(answers: Answers, rough: float, numbers: dict[str, Number]) -> str:
    """Whether a scorer looks at prompts at all."""
    change = _differences(answers.others, answers.first)
    least = max(1e-9 * float(answers.first.nan_to_num().abs().max()), rough if rough > 0 else 0.0) / TIMES
    numbers["prompts_matter"] = int((change > least).sum())
    if not len(change) or int((change > least).sum()) == 0:
        return "it does not look at prompts"
    good = torch.isfinite(answers.others) & torch.isfinite(answers.first)
    right, wrong = float(answers.first[good].mean()), float(answers.others[good].mean())
    return f"mean {right:.3g} with their own prompts, {wrong:.3g} with others"


def _differences(one: Tensor, other: Tensor) -> Tensor:
    change = (one - other).abs()
    return change[torch.isfinite(change)]


def _shuffled(first: Tensor, again: Tensor) -> bool:
    """Whether two equal calls gave the same set of scores in another order."""
    moved = int((first != again).sum())
    same = torch.equal(first.sort().values, again.sort().values)
    return moved >= 2 and same and bool(torch.isfinite(first).all())
