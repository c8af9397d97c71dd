"""What rules are written with: a finding at a place of a series, and places that many of them look for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlvis.findings import Finding, Severity
from rlvis.observe.history import Series, rolling

WINDOW = 10  # steps that a noisy metric is averaged over before it is judged

Range = tuple[float | None, float | None]  # lowest and highest healthy value; None: that side is open


def symptom(
    series: Series,
    at: int | np.integer,
    *,
    what: str,
    wanted: str,
    why: str,
    type: str,
    severity: Severity = Severity.warning,
    value: float | None = None,
) -> Finding:
    """The finding at position `at` of a series, named by the table of rules.

    value: what was read there; None takes the series' own, others are means or trends that end there.
    """
    read = float(series.value[at] if value is None else value)
    return Finding(
        what=what,
        severity=severity,
        numbers={"value": read},
        wanted=wanted,
        why=why,
        type=type,
        source=series.key,
        step=int(series.step[at]),
    )


def counted(
    series: Series, what: str, *, why: str, type: str, severity: Severity = Severity.warning
) -> Iterator[Finding]:
    """The finding where a count that should be 0 first is not.

    what: with {total}, the sum over all steps, and {steps}, as in "3 of 120", in their places.
    """
    bad = np.nonzero(series.value > 0)[0]
    if not len(bad):
        return
    text = what.format(total=int(series.value.sum()), steps=f"{len(bad)} of {len(series)}")
    yield symptom(series, bad[0], what=text, wanted="0", why=why, type=type, severity=severity)


def mean_above(series: Series, limit: float) -> tuple[int, float] | None:
    """Where the mean of WINDOW neighbours is first above `limit`: position of the last of them, and mean."""
    means = rolling(series.value, WINDOW)
    over = np.nonzero(means > limit)[0]
    return (int(over[0]) + WINDOW - 1, float(means[over[0]])) if len(over) else None


def mean_below(series: Series, limit: float) -> tuple[int, float] | None:
    """The same for a mean below `limit`."""
    means = rolling(series.value, WINDOW)
    under = np.nonzero(means < limit)[0]
    return (int(under[0]) + WINDOW - 1, float(means[under[0]])) if len(under) else None


def last_stretch(ill: np.ndarray) -> int | None:
    """Where the unbroken stretch of True at the end begins; None where the end is not True."""
    if not len(ill) or not ill[-1]:
        return None
    healthy = np.nonzero(~ill)[0]
    return int(healthy[-1]) + 1 if len(healthy) else 0
