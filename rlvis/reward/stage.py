"""The score stage: run every term on local media and mask what failed (gather.py joins all ranks' scores).

The contract: a score is a finite number that the scorer gave for that very sample, or the sample is invalid
and counted. Nothing is ever replaced by 0. A call that raises is retried, then scored row by row, so that one
bad image costs one sample; one that fails because what it needs is away is repeated for as long as patience
lasts. Every call goes through the term's boundary, on a copy of the pictures.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlvis.reward.calls import Columns, Insisting, Metadata, Samples
from rlvis.reward.contract import Term, concatenate
from rlvis.reward.lent import Lent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LocalScores:
    """Scores of this rank's rows: value float64 [N, R] (NaN: failed), valid bool [N] (no term failed).

    noise_var, noise_dof: float64 [N, R], NaN where a scorer says nothing; None when none does. latency:
    seconds for each term. failures: "TERM/KIND" -> samples, KIND one of raised, late, shape, not_finite,
    refused, noise. retried: calls that were repeated.
    """

    value: Tensor
    valid: Tensor
    noise_var: Tensor | None
    noise_dof: Tensor | None
    latency: tuple[float, ...]
    failures: dict[str, int]
    retried: int = 0

    @staticmethod
    def concatenate(parts: Sequence[LocalScores]) -> LocalScores:
        """Scores of shards in row order as those of one; latencies, failures and retries add up."""
        failures: Counter[str] = Counter()
        for part in parts:
            failures.update(part.failures)
        return LocalScores(
            value=torch.cat([part.value for part in parts]),
            valid=torch.cat([part.valid for part in parts]),
            noise_var=concatenate(parts, "noise_var"),
            noise_dof=concatenate(parts, "noise_dof"),
            latency=tuple(sum(seconds) for seconds in zip(*(part.latency for part in parts), strict=True)),
            failures=dict(failures),
            retried=sum(part.retried for part in parts),
        )

    def take(self, index: Tensor) -> LocalScores:
        """The rows `index`, int64 [n], in that order; latency, failures and retries stay those of all."""
        var, dof = (None if noise is None else noise[index] for noise in (self.noise_var, self.noise_dof))
        return replace(self, value=self.value[index], valid=self.valid[index], noise_var=var, noise_dof=dof)


def score(
    terms: Sequence[Term],
    texts: Sequence[str],
    metadata: Metadata,
    media: Tensor,
    retries: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    patience: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> LocalScores:
    """Score N samples with every term.

    Args: texts, metadata, those of each row (N); media, uint8 [N, M, 3, Y, X] on the CPU; retries, further
    calls after one that raised; patience, seconds to wait for a scorer that is away (`is_away`). Kinds of
    failure: raised (the scorer raised on that row alone too), late (it gave no scores in time), shape (it
    returned another number of scores or another shape), not_finite (NaN, inf, None), refused (valid is
    False), noise (its noise estimate is not usable; the sample itself stays valid). One log line for each
    kind. Raises ValueError when rows of the inputs do not match.
    """
    if media.ndim != 5 or media.dtype != torch.uint8 or not len(texts) == len(metadata) == len(media):
        raise ValueError(
            f"score wanted uint8 media [{len(texts)}, M, 3, Y, X] with {len(texts)} texts and as many "
            "metadata, got "
            f"{str(media.dtype).removeprefix('torch.')} {list(media.shape)} and {len(metadata)} metadata"
        )
    if not terms:
        raise ValueError("score got no terms; type reward=NAME")
    samples = Samples(texts, metadata, Lent(media), Insisting(retries, patience, clock, sleep))
    columns: list[Columns] = []
    latency: list[float] = []
    failures: dict[str, int] = {}
    retried = 0
    for term in terms:
        start = clock()
        scored, faults, repeats = samples.term(term, start)
        latency.append(clock() - start)
        retried += repeats
        columns.append(scored)
        for kind, (count, reason) in faults.items():
            failures[f"{term.name}/{kind}"] = count
            effect = "have no noise estimate" if kind == "noise" else "are masked"
            if kind != "noise":
                term.boundary.reason = reason
            log.warning(
                "reward %s: %d of %d samples %s (%s): %s", term.name, count, len(texts), effect, kind, reason
            )
    value, var, dof = torch.stack(columns, dim=2)
    return LocalScores(
        value=value,
        valid=torch.isfinite(value).all(dim=1),
        noise_var=some(var),
        noise_dof=some(dof),
        latency=tuple(latency),
        failures=failures,
        retried=retried,
    )


def some(column: Tensor) -> Tensor | None:
    """A noise column, or None when no scorer said anything."""
    return None if bool(column.isnan().all()) else column


def unasked(terms: Sequence[Term], rows: int) -> LocalScores:
    """Scores of rows that another rank has scored: none, and nobody reads them."""
    nothing = torch.full((rows, len(terms)), math.nan, dtype=torch.float64)
    return LocalScores(nothing, torch.zeros(rows, dtype=torch.bool), None, None, (0.0,) * len(terms), {})
