"""What moved first: reward terms, prompts, transitions and layers of details.jsonl against their own past.

A series moves at a step where it leaves the median of its last values by SPREADS times their spread, and is
still outside at its next value. The spread is a median too, so a slow trend does not move and an outlier
before does not hide a move; what is positive by nature is compared by its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

SPREADS = 6.0
PAST, LEAST = 20, 4  # values that are compared with: at most, at least
FLOOR = 0.05  # of a logarithm, and of the level of anything else
BEFORE = 10  # steps before the first bad one that still count
FAMILIES = ("term", "group", "kind", "prompt", "transition", "layer")  # in the order of a step


@dataclass(frozen=True)
class Change:
    """A series that left its own past: family and name, step, what it was (median) and became, in spreads."""

    family: str
    name: str
    step: int
    before: float
    after: float
    spreads: float


def find_changes(details: list[dict[str, Any]], last: int) -> list[Change]:
    """The first move of each series up to step `last`, by step; then as a step runs, the largest first."""
    changes = []
    for (family, name), series in collect(details).items():
        change = _first(family, name, series, logarithm=family in ("transition", "layer"))
        if change is not None and change.step <= last:
            changes.append(change)
    return sorted(changes, key=lambda c: (c.step, FAMILIES.index(c.family), -c.spreads))


def first_of_each(details: list[dict[str, Any]], bad: int) -> list[Change]:
    """Of each family the first series to move, from BEFORE steps ahead of the first bad step to it."""
    chosen: dict[str, Change] = {}
    for change in find_changes(details, bad):
        if change.step >= bad - BEFORE:
            chosen.setdefault(change.family, change)
    return sorted(chosen.values(), key=lambda c: (c.step, FAMILIES.index(c.family)))


def collect(details: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(family, name) -> [(step, value)]: terms, spread of groups, kinds, prompts, transitions, layers."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in details:
        for family, name, value in _values(line):
            if math.isfinite(value):
                series.setdefault((family, name), []).append((int(line["step"]), value))
    return series


def fits(line: dict[str, Any]) -> bool:
    """Whether a line of details.jsonl is as a run writes it."""
    try:
        list(_values(line))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return False
    return True


def _values(line: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    prompts = [p for p in line.get("prompts") or [] if p.get("mean") is not None]
    for name in {name for p in prompts for name in p.get("terms") or {}}:
        values = [float(p["terms"][name]) for p in prompts if p["terms"].get(name) is not None]
        yield "term", name, float(np.mean(values)) if values else math.nan
    if spreads := [float(p["std"]) for p in prompts if p.get("std") is not None]:
        yield "group", "spread of rewards, mean over groups", float(np.mean(spreads))
    for kind in {p["kind"] for p in prompts if p.get("kind")}:
        yield "kind", kind, float(np.mean([float(p["mean"]) for p in prompts if p.get("kind") == kind]))
    for p in prompts:
        yield "prompt", f"{p['prompt']} ({p['text']!r})", float(p["mean"])
    for t in line.get("transitions") or []:
        for key in ("ratio_max_deviation", "kl"):
            if t.get(key) is not None:
                yield "transition", f"{t['at']} (sigma {float(t['sigma']):.2f}) {key}", float(t[key])
    for name, value in (line.get("layers") or {}).items():
        yield "layer", name, float(value)


def _first(family: str, name: str, series: list[tuple[int, float]], *, logarithm: bool) -> Change | None:
    steps, raw = [s for s, _ in series], np.array([v for _, v in series])
    values = np.log(np.maximum(raw, 1e-12)) if logarithm else raw
    for i in range(LEAST, len(values)):
        past = values[max(0, i - PAST) : i]
        median = float(np.median(past))
        level = 1.0 if logarithm else max(abs(median), 0.1 * float(np.ptp(values)))
        spread = max(1.4826 * float(np.median(np.abs(past - median))), FLOOR * level, 1e-12)
        here = (values[i] - median) / spread
        after = (values[i + 1] - median) / spread if i + 1 < len(values) else here
        if abs(here) > SPREADS and here * after > 0 and abs(after) > SPREADS / 2:
            before = math.exp(median) if logarithm else median
            return Change(family, name, steps[i], before, float(raw[i]), abs(float(here)))
    return None
