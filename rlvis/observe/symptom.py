"""A symptom of an unhealthy run, and the series that symptoms are read from.

Noise is taken from the differences between neighbouring steps, so that a trend does not count as noise, and
by their median, so that single outliers do not either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

SUSPICIOUS, BROKEN = "suspicious", "broken"
DEFAULT_CLIP = 1e-4  # of advantage.clip_range=null, as in rlvis/update/loss.py


@dataclass(frozen=True)
class Symptom:
    """Something that a healthy run does not show."""

    name: str  # as in ratio-first
    severity: str  # "suspicious" | "broken"
    step: int  # the first step where it shows
    key: str  # the metric that it was read from
    value: float
    limit: str  # what was wanted, in words
    what: str  # one sentence with numbers
    why: str  # the likely cause
    type: str  # the override to try


@dataclass(frozen=True)
class Series:
    """A metric over training steps: step [n] rising, value [n] float64 (NaN and inf are possible)."""

    step: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.step)

    @property
    def finite(self) -> Series:
        """Without the entries that are not finite."""
        known = np.isfinite(self.value)
        return Series(self.step[known], self.value[known])


class Seen:
    """What a run wrote: rows of metrics.jsonl and its configuration, either of which may lack anything."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> None:
        self.rows, self.config = rows, config

    def series(self, key: str) -> Series:
        """The metric over the training steps that have it."""
        found = [(row["step"], float(row[key])) for row in self.rows if number(row.get(key))]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return Series(np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64))

    def told(self, path: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted path; `default` where it is not there or null."""
        node: Any = self.config
        for part in path.split("."):
            if not isinstance(node, Mapping):
                return default
            node = node.get(part)
        return default if node is None else node

    @property
    def sign(self) -> float:
        """Which way the reward is pushed: 1, or -1 for a run that trains against it."""
        return -1.0 if float(self.told("advantage.sign", 1.0)) < 0 else 1.0

    @property
    def clip(self) -> float:
        """Half of the clip range; its narrower side where the two differ.

        At advantage.ratio_scope=position an unset range depends on the latent grid, which is taken to be an
        eighth of the picture's sides.
        """
        told = self.told("advantage.clip_range")
        if told is not None:
            return float(min(told)) if isinstance(told, Sequence) else float(told)
        if self.told("advantage.ratio_scope") != "position":
            return DEFAULT_CLIP
        sides = self.told("model.height", 64) * self.told("model.width", 64) / 64
        return DEFAULT_CLIP * math.sqrt(max(1.0, sides))

    @cached_property
    def gain(self) -> float:
        """How far the reward has moved the way that was wanted, in standard errors: the last third against
        the first steps or the first third, whichever moved more; 0 below 9 steps.
        """
        return self.sign * moved(self.series("reward/mean").finite)


def number(value: Any) -> bool:
    """Whether a value of a row is a number, or a string that stands for one that JSON has not."""
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in (
        "NaN",
        "Infinity",
        "-Infinity",
    )


def noise(values: np.ndarray) -> float:
    """Standard deviation of a series around its trend, from the differences of neighbours."""
    if len(values) < 3:
        return 0.0
    steps = np.diff(values)
    spread = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    return spread if spread > 0 else float(steps.std()) / math.sqrt(2)


def rolling(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` neighbours; entry i ends at value i + window - 1. Empty for shorter series."""
    if len(values) < window:
        return np.empty(0)
    return np.convolve(values, np.full(window, 1.0 / window), mode="valid")


def window_of(length: int) -> int:
    """Steps to average over: a tenth of the run, at least five."""
    return max(5, length // 10)


def moved(series: Series) -> float:
    """Change from the beginning to the last third in standard errors of the difference; the beginning is the
    first window or the first third, whichever shows the larger change. 0 below 9 steps.
    """
    values, count = series.value, len(series)
    if count < 9:
        return 0.0
    spread = max(noise(values), 1e-12)
    last = values[-(count // 3) :]
    found = []
    for first in (values[: count // 3], values[: min(window_of(count), count // 3)]):
        error = spread * math.sqrt(1 / len(first) + 1 / len(last))
        found.append(float(last.mean() - first.mean()) / error)
    return max(found, key=abs)


def first_over(series: Series, limit: float, window: int) -> int | None:
    """Where the mean of `window` neighbours is first above `limit`: position of the window's last one."""
    over = np.nonzero(rolling(series.value, window) > limit)[0]
    return int(over[0]) + window - 1 if len(over) else None
