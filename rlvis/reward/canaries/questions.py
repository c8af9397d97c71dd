"""Questions to a scorer about the same samples: again, in another order, alone, with the prompts of others.

It is asked four times about a few samples of the probe and once about each alone. Its noise comes first:
what two equal questions differ by is not held against it afterwards. Nothing here reaches the run: the global
random generators are put back by the examination, and rlvis' scorers keep no other state about pictures
that the run never makes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.records import PromptBatch
from rlvis.reward import cache, stage
from rlvis.reward.contract import Term
from rlvis.runtime import dist, rng

ROWS = 16  # samples of a rank that are asked about
ALONE = 4  # of them one by one
SECONDS = 20.0  # that the questions to one scorer may take, by its pace on the probe
FAR = 0.1  # of the scores' spread: a difference that is no rounding
TIMES = 4.0  # the scorer's noise: a difference that is not that either


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

    def changes(self, scores: Tensor) -> Tensor:
        """How far scores [n] are from the first ones, where there are both."""
        change = (scores - self.first).abs()
        return change[torch.isfinite(change)]

    @property
    def size(self) -> float:
        """The largest first score, without its sign."""
        return float(self.first.nan_to_num().abs().max())


@dataclass(frozen=True)
class Consistency:
    """What the answers of one scorer come to.

    asked: samples with two answers. noise_std: of one score between equal calls. swapped: scores that change
    with the order of the samples. shuffled: two equal calls gave the same scores to other samples.
    neighbours: the largest change of a sample alone, None where most do not change. prompts_matter: scores
    that change with the prompt. means: of the scores with their prompts and with those of others.
    """

    asked: int
    noise_std: float
    swapped: int
    shuffled: bool
    neighbours: float | None
    prompts_matter: int
    means: tuple[float, float]

    @property
    def mixed_up(self) -> bool:
        """Whether scores reach other samples than they belong to."""
        return self.swapped >= max(2, self.asked // 4) or self.shuffled


def ask(
    term: Term, prompts: PromptBatch, prompt: Sequence[int], media: Tensor, retries: int, seconds: float
) -> Answers:
    """All questions to one term on this rank's samples, joined over ranks; a collective.

    Args: prompt, for which of the prompts each sample is; media, uint8 [N, M, 3, Y, X]; retries, as for
    training; seconds, that the term took for all N.
    """
    pace = seconds / max(1, len(prompt))
    most = int(SECONDS / (4 * pace + 1e-9))
    count = min(len(prompt), ROWS, max(2, most))
    rows = [i * len(prompt) // count for i in range(count)]
    media, right = media[rows], [prompt[i] for i in rows]
    wrong = [(p + 1) % prompts.rows for p in right]
    order = rng.generator(0, count, "doctor: order").permutation(count).tolist()
    terms = cache.bare([term])  # a cache would give every answer twice

    def score(picked: Sequence[int], chosen: Sequence[int]) -> Tensor:
        if dist.is_duplicate():
            return torch.full((len(picked),), math.nan, dtype=torch.float64)
        texts = [prompts.texts[chosen[i]] for i in picked]
        metadata = [prompts.metadata[chosen[i]] for i in picked]
        return stage.score(terms, texts, metadata, media[list(picked)], retries).value[:, 0]

    every = list(range(count))
    with _quiet():
        first, again = score(every, right), score(every, right)
        moved = torch.empty_like(first)
        moved[order] = score(order, right)
        alone = torch.full_like(first, math.nan)
        for i in every[:ALONE]:
            alone[i] = score([i], right)[0]
        others = score(every, wrong)
    table = dist.all_gather_rows(torch.stack([first, again, moved, alone, others], dim=1))
    return Answers(*table.unbind(1))


def compare(answers: Answers, spread: float) -> Consistency | None:
    """What the answers come to; None where too few scores were given twice.

    spread: standard deviation of the scorer's scores over many samples, the unit of a difference that counts.
    """
    noise = answers.changes(answers.again)
    if len(noise) < 2:
        return None
    rough = max(FAR * spread, TIMES * float(noise.max()), 1e-9 * answers.size)
    lone = answers.changes(answers.alone)
    most = len(lone) > 0 and int((lone > rough).sum()) * 2 > len(lone)
    both = torch.isfinite(answers.others) & torch.isfinite(answers.first)
    least = max(1e-9 * answers.size, rough if rough > 0 else 0.0) / TIMES
    return Consistency(
        asked=len(noise),
        noise_std=float(noise.square().mean().sqrt()) / math.sqrt(2),
        swapped=int((answers.changes(answers.moved) > rough).sum()),
        shuffled=_shuffled(answers.first, answers.again),
        neighbours=float(lone.max()) if most else None,
        prompts_matter=int((answers.changes(answers.others) > least).sum()),
        means=(float(answers.first[both].mean()), float(answers.others[both].mean())),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """What the scorers could not judge was said once already, when the probe was scored."""
    before = stage.log.level
    stage.log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        stage.log.setLevel(before)


def _shuffled(first: Tensor, again: Tensor) -> bool:
    """Whether two equal calls gave the same set of scores in another order."""
    moved = int((first != again).sum())
    same = torch.equal(first.sort().values, again.sort().values)
    return moved >= 2 and same and bool(torch.isfinite(first).all())
