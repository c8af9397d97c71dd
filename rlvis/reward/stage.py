"""The score stage: run every term on local media and mask what failed (gather.py joins all ranks' scores).

The contract: a score is a finite number that the scorer gave for that very sample, or the sample is invalid
and counted. Nothing is ever replaced by 0. A call that raises is retried, then scored row by row, so that one
bad image costs one sample.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvis.reward.contract import Scores, Term, concatenate, or_nan

log = logging.getLogger(__name__)

Metadata = Sequence[dict[str, Any]]
# What went wrong with samples of one term: kind -> (how many, the first reason).
Faults = dict[str, tuple[int, str]]
Columns = (
    Tensor  # of one term: value, noise_var, noise_dof, float64 [3, N], NaN where it failed or was not said
)


@dataclass(frozen=True, slots=True, eq=False)
class LocalScores:
    """Scores of this rank's rows: value float64 [N, R] (NaN: failed), valid bool [N] (no term failed).

    noise_var, noise_dof: float64 [N, R], NaN where a scorer says nothing; None when none does. latency:
    seconds for each term. failures: "TERM/KIND" -> samples, KIND one of raised, shape, not_finite, refused,
    noise. retried: calls that were repeated.
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
) -> LocalScores:
    """Score N samples with every term.

    Args: texts, metadata, those of each row (N); media, uint8 [N, M, 3, Y, X] on the CPU; retries, further
    calls after one that raised. Kinds of failure: raised (the scorer raised on that row alone too), shape (it
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
    columns: list[Columns] = []
    latency: list[float] = []
    failures: dict[str, int] = {}
    retried = 0
    for term in terms:
        start = clock()
        scored, faults, repeats = _term(term, texts, metadata, media, retries)
        latency.append(clock() - start)
        retried += repeats
        columns.append(scored)
        for kind, (count, reason) in faults.items():
            failures[f"{term.name}/{kind}"] = count
            effect = "have no noise estimate" if kind == "noise" else "are masked"
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


@dataclass(frozen=True, slots=True)
class _Failure:
    """A call that gave no usable scores: its kind, and the reason as text."""

    kind: str
    reason: str


def _term(
    term: Term, texts: Sequence[str], metadata: Metadata, media: Tensor, retries: int
) -> tuple[Columns, Faults, int]:
    """The columns of one term, what failed, and how often a call was repeated."""
    n, repeats = len(texts), 0
    if n == 0:
        return *_join([]), repeats
    result = _call(term, texts, metadata, media)
    # A wrong shape does not get better by asking again.
    while isinstance(result, _Failure) and result.kind == "raised" and repeats < retries:
        repeats += 1
        result = _call(term, texts, metadata, media)
    parts = [(n, result)]
    if n > 1 and isinstance(result, _Failure):
        single = [slice(i, i + 1) for i in range(n)]
        parts = [(1, _call(term, texts[i], metadata[i], media[i])) for i in single]
    return *_join(parts), repeats


def _call(term: Term, texts: Sequence[str], metadata: Metadata, media: Tensor) -> Scores | _Failure:
    """One call, with its scores as float64 on the CPU."""
    wanted = (len(texts),)
    try:
        scores = term.scorer(media, texts, metadata)
        columns: dict[str, Any] = {}
        for name in ("value", "valid", "noise_var", "noise_dof"):
            column = getattr(scores, name)
            if column is not None and tuple(column.shape) != wanted:
                reason = (
                    f"wanted {name} of shape {list(wanted)}, one for each image, got {list(column.shape)}"
                )
                return _Failure("shape", reason)
            dtype = torch.bool if name == "valid" else torch.float64
            columns[name] = None if column is None else column.detach().to("cpu", dtype)
        return Scores(**columns)
    except Exception as error:  # whatever a scorer raises costs its samples, not the run
        return _Failure("raised", f"{type(error).__name__}: {error}")


def _join(parts: Sequence[tuple[int, Scores | _Failure]]) -> tuple[Columns, Faults]:
    """Put pieces of (rows, result) together, with NaN for what is not usable, and count that by kind."""
    faults: Faults = {}

    def count(kind: str, number: int, reason: str) -> None:
        if number:
            before, first = faults.get(kind, (0, reason))
            faults[kind] = (before + number, first)

    columns: list[Columns] = [torch.empty(3, 0, dtype=torch.float64)]
    for rows, part in parts:
        if isinstance(part, _Failure):
            count(part.kind, rows, part.reason)
            columns.append(torch.full((3, rows), math.nan, dtype=torch.float64))
            continue
        finite = torch.isfinite(part.value)
        good = finite & part.valid
        bad = part.value[~finite].tolist()
        count("not_finite", len(bad), f"the scorer gave {bad[:1]}")
        count("refused", int((finite & ~part.valid).sum()), "the scorer called its own score invalid")
        var, dof = (or_nan(noise, part.value) for noise in (part.noise_var, part.noise_dof))
        # Degrees of freedom without a variance say nothing; a variance without them is one that is known.
        known = torch.isfinite(var) & (var >= 0) & (dof.isnan() | (dof >= 0))
        if part.noise_var is not None or part.noise_dof is not None:
            wrong = good & ~known
            reason = f"noise_var {var[wrong][:1].tolist()}, noise_dof {dof[wrong][:1].tolist()}"
            count("noise", int(wrong.sum()), reason)
        usable = torch.stack([good, good & known, good & known])
        columns.append(torch.where(usable, torch.stack([part.value, var, dof]), math.nan))
    return torch.cat(columns, dim=1), faults
