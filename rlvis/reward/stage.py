"""The score stage: run every term on local media, mask what failed, and gather scalars into Rewards.

The contract: a score is a finite number that the scorer gave for that very sample, or the sample is invalid
and counted. Nothing is ever replaced by 0. A call that raises is retried, then scored row by row, so that one
bad image costs one sample.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvis.records import Rewards
from rlvis.reward.contract import Scores, Term

log = logging.getLogger(__name__)

Metadata = Sequence[dict[str, Any]]
# What went wrong with samples of one term: kind -> (how many, the first reason).
Faults = dict[str, tuple[int, str]]
# Of one term: value, noise_var, noise_dof, each float64 [N] with NaN where it failed or was not said.
Columns = tuple[Tensor, Tensor, Tensor]


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
    values, variances, freedoms, latency = [], [], [], []
    failures: dict[str, int] = {}
    retried = 0
    for term in terms:
        start = clock()
        (value, var, dof), faults, repeats = _term(term, texts, metadata, media, retries)
        latency.append(clock() - start)
        retried += repeats
        values.append(value)
        variances.append(var)
        freedoms.append(dof)
        for kind, (count, reason) in faults.items():
            failures[f"{term.name}/{kind}"] = count
            effect = "have no noise estimate" if kind == "noise" else "are masked"
            log.warning(
                "reward %s: %d of %d samples %s (%s): %s", term.name, count, len(texts), effect, kind, reason
            )
    together = torch.stack(values, dim=1)
    return LocalScores(
        value=together,
        valid=torch.isfinite(together).all(dim=1),
        noise_var=_some(torch.stack(variances, dim=1)),
        noise_dof=_some(torch.stack(freedoms, dim=1)),
        latency=tuple(latency),
        failures=failures,
        retried=retried,
    )


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
        for name in ("value", "valid", "noise_var", "noise_dof"):
            field = getattr(scores, name)
            if field is not None and tuple(field.shape) != wanted:
                reason = f"wanted {name} of shape {list(wanted)}, one for each image, got {list(field.shape)}"
                return _Failure("shape", reason)
        return Scores(
            value=scores.value.detach().to("cpu", torch.float64),
            valid=scores.valid.detach().to("cpu", torch.bool),
            noise_var=None
            if scores.noise_var is None
            else scores.noise_var.detach().to("cpu", torch.float64),
            noise_dof=None
            if scores.noise_dof is None
            else scores.noise_dof.detach().to("cpu", torch.float64),
        )
    except Exception as error:  # whatever a scorer raises costs its samples, not the run
        return _Failure("raised", f"{type(error).__name__}: {error}")


def _join(parts: Sequence[tuple[int, Scores | _Failure]]) -> tuple[Columns, Faults]:
    """Put pieces of (rows, result) together, with NaN for what is not usable, and count that by kind."""
    faults: Faults = {}

    def count(kind: str, number: int, reason: str) -> None:
        if number:
            before, first = faults.get(kind, (0, reason))
            faults[kind] = (before + number, first)

    columns: list[Columns] = []
    for rows, part in parts:
        nan = torch.full((rows,), math.nan, dtype=torch.float64)
        if isinstance(part, _Failure):
            count(part.kind, rows, part.reason)
            columns.append((nan, nan, nan))
            continue
        finite = torch.isfinite(part.value)
        good = finite & part.valid
        bad = part.value[~finite].tolist()
        count("not_finite", len(bad), f"the scorer gave {bad[:1]}")
        count("refused", int((finite & ~part.valid).sum()), "the scorer called its own score invalid")
        var, dof = (nan if noise is None else noise for noise in (part.noise_var, part.noise_dof))
        # Degrees of freedom without a variance say nothing; a variance without them is one that is known.
        known = torch.isfinite(var) & (var >= 0) & (dof.isnan() | (dof >= 0))
        if part.noise_var is not None or part.noise_dof is not None:
            wrong = good & ~known
            reason = f"noise_var {var[wrong][:1].tolist()}, noise_dof {dof[wrong][:1].tolist()}"
            count("noise", int(wrong.sum()), reason)
        stated = good & known
        kept = (
            torch.where(good, part.value, nan),
            torch.where(stated, var, nan),
            torch.where(stated, dof, nan),
        )
        columns.append(kept)
    empty = torch.empty(0, dtype=torch.float64)
    value, var, dof = (torch.cat([empty, *(c[i] for c in columns)]) for i in range(3))
    return (value, var, dof), faults


def _some(column: Tensor) -> Tensor | None:
    """The noise columns, or None when no scorer said anything."""
    return None if bool(column.isnan().all()) else column


def gather(
    parts: Sequence[LocalScores],
    prompt: Tensor,
    sample: Tensor,
    terms: Sequence[Term],
    groups: int,
    group_size: int,
    all_gather: Callable[[Tensor], Tensor],
) -> Rewards:
    """Join this rank's shards with those of all ranks into Rewards [P, K, R].

    Args: parts, the shards in row order (none on a rank without rows); prompt, sample, int64 [N], where those
    rows lie in [P, K]; groups, P; group_size, K; all_gather, joins rows [n, c] of all ranks in rank order. It
    is called once on every rank, with the same columns whatever failed where. Latency and failures stay
    local.
    """
    r = len(terms)
    nothing = torch.empty(0, r, dtype=torch.float64)

    def column(get: Callable[[LocalScores], Tensor | None]) -> Tensor:
        return torch.cat(
            [nothing, *((torch.full_like(p.value, math.nan) if (t := get(p)) is None else t) for p in parts)]
        )

    value = column(lambda p: p.value)
    valid = torch.cat([torch.empty(0, dtype=torch.bool), *(p.valid for p in parts)])
    noise = [column(lambda p: p.noise_var), column(lambda p: p.noise_dof)]
    if not len(prompt) == len(sample) == len(value):
        raise ValueError(
            f"gather got scores of {len(value)} rows for {len(prompt)} prompts, {len(sample)} samples"
        )
    place = torch.stack([x.to(torch.float64) for x in (prompt, sample, valid)], dim=1)
    table = all_gather(torch.cat([place, value, *noise], dim=1))
    return assemble(
        table[:, 0].long(),
        table[:, 1].long(),
        table[:, 3 : 3 + r],
        table[:, 2] > 0,
        names=tuple(t.name for t in terms),
        weights=tuple(t.weight for t in terms),
        groups=groups,
        group_size=group_size,
        latency=tuple(sum(p.latency[i] for p in parts) for i in range(r)),
        noise_var=table[:, 3 + r : 3 + 2 * r],
        noise_dof=table[:, 3 + 2 * r :],
    )


def assemble(
    prompt: Tensor,
    sample: Tensor,
    value: Tensor,
    valid: Tensor,
    *,
    names: tuple[str, ...],
    weights: tuple[float, ...],
    groups: int,
    group_size: int,
    latency: tuple[float, ...],
    noise_var: Tensor | None = None,
    noise_dof: Tensor | None = None,
) -> Rewards:
    """Put scored rows at their place in [P, K, R]; a sample that no row names is invalid with a score of NaN.

    Args: prompt, sample, int64 [n], positions in groups = P and group_size = K; value, noise_*, float64 [n,
    R]; valid, bool [n]. Raises ValueError when a position lies outside [P, K] or is named twice.
    """
    place = prompt * group_size + sample
    outside = (prompt < 0) | (prompt >= groups) | (sample < 0) | (sample >= group_size)
    if bool(outside.any()):
        i = int(outside.nonzero()[0])
        raise ValueError(
            f"a score belongs to prompt {int(prompt[i])}, sample {int(sample[i])}, outside of the {groups} "
            f"prompts x {group_size} samples of this step; the records are of another step or of other sizes"
        )
    times = torch.bincount(place, minlength=groups * group_size)
    if bool((times > 1).any()):
        p, k = divmod(int(times.argmax()), group_size)
        raise ValueError(f"prompt {p}, sample {k} is scored twice; leave padding rows out before gathering")

    def spread(rows: Tensor) -> Tensor:
        full = torch.full((groups * group_size, len(names)), math.nan, dtype=torch.float64)
        full[place] = rows
        return full.reshape(groups, group_size, len(names))

    mask = torch.zeros(groups * group_size, dtype=torch.bool)
    mask[place] = valid
    return Rewards(
        term=spread(value),
        names=names,
        weights=weights,
        valid=mask.reshape(groups, group_size),
        noise_var=None if noise_var is None else _some(spread(noise_var)),
        noise_dof=None if noise_dof is None else _some(spread(noise_dof)),
        latency=latency,
    )
