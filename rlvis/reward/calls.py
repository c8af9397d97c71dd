"""Calls of one term on the samples of a step: made, repeated where that may help, then row by row.

A call that raises is repeated, then made row by row, so that one bad image costs one sample; one that fails
because what it needs is away is repeated for as long as patience lasts.
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

from rlvis.named import one_line
from rlvis.reward.away import is_away
from rlvis.reward.contract import Scores, Term, or_nan
from rlvis.reward.lent import Lent
from rlvis.reward.limit import LateError

log = logging.getLogger(__name__)

PAUSE, LONGEST_PAUSE = 1.0, 10.0  # seconds between two looks for a scorer that is away

Metadata = Sequence[dict[str, Any]]
# What went wrong with samples of one term: kind -> (how many, the first reason).
Faults = dict[str, tuple[int, str]]
# Of one term: value, noise_var, noise_dof, float64 [3, N], NaN where it failed or was not said.
Columns = Tensor


@dataclass(frozen=True, slots=True)
class Insisting:
    """How often and how long a failed call is repeated: `retries` times, and where what it needs is away for
    `patience` seconds. clock, sleep: stand in for time in tests.
    """

    retries: int = 2
    patience: float = 0.0
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class _Failure:
    """A call that gave no usable scores: its kind, and the reason as text. away: what it needs is not there.
    final: asking again, or row by row, does not help.
    """

    kind: str
    reason: str
    away: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class Samples:
    """N samples to score, the pictures lent to each scorer in turn."""

    texts: Sequence[str]
    metadata: Metadata
    lent: Lent
    insisting: Insisting

    def term(self, term: Term, start: float) -> tuple[Columns, Faults, int]:
        """The columns of one term, what failed, and how often a call was repeated. start: the clock now."""
        n, news = len(self.texts), term.boundary.news
        if n == 0:
            return *_join([]), 0
        result = self._call(term, slice(0, n))
        if not isinstance(result, _Failure):
            return *_join([(n, result)]), 0
        result, repeats = self._insist(term, result)
        parts = [(n, result)]
        if n > 1 and isinstance(result, _Failure) and not result.final:
            parts = [(1, self._call(term, slice(i, i + 1))) for i in range(n)]
            news.alone += n
        news.retried += repeats
        news.seconds += self.insisting.clock() - start
        return *_join(parts), repeats

    def _insist(self, term: Term, result: Scores | _Failure) -> tuple[Scores | _Failure, int]:
        """Ask again where that may help; what came of it in the end, and how often it was asked."""
        how, repeats, retried, start = self.insisting, 0, 0, self.insisting.clock()
        while isinstance(result, _Failure) and result.kind == "raised":
            waited = how.clock() - start
            if result.away and waited < how.patience:
                if not repeats:
                    log.warning(
                        "reward %s is away (%s): the step waits up to %g s for it, and keeps its samples",
                        *(term.name, result.reason, how.patience),
                    )
                pause = min(LONGEST_PAUSE, PAUSE * 2.0 ** min(repeats, 10), how.patience - waited)
                how.sleep(pause)
            elif result.final or retried >= how.retries:
                return result, repeats
            else:
                retried += 1
            repeats += 1
            result = self._call(term, slice(0, len(self.texts)))
        if how.patience and not isinstance(result, _Failure) and repeats > retried:
            log.info("reward %s is back after %.0f s", term.name, how.clock() - start)
        return result, repeats

    def _call(self, term: Term, rows: slice) -> Scores | _Failure:
        """One call, with its scores as float64 on the CPU."""
        texts = self.texts[rows]
        wanted = (len(texts),)
        try:
            scores = term.ask(self.lent.shown[rows], texts, self.metadata[rows])
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
            for name, numbers in scores.extras.items():
                term.boundary.news.extra(name, numbers)
            return Scores(**columns, reason=scores.reason)
        except Exception as error:  # whatever a scorer raises costs its samples, not the run
            final = isinstance(error, LateError) or getattr(error, "insisted", False)
            kind = "late" if isinstance(error, LateError) else "raised"
            return _Failure(kind, one_line(error), is_away(error), final)
        finally:
            if self.lent.put_right(rows):
                term.boundary.wrote(term.name)


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
        count("not_finite", len(bad), part.reason or f"the scorer gave {bad[:1]}")
        refused = part.reason or "the scorer called its own score invalid"
        count("refused", int((finite & ~part.valid).sum()), refused)
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
