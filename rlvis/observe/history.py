"""What a run wrote, as series over its steps, and how a series is told from its noise.

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

from rlvis.schema import DEFAULT_CLIP_RANGE

HUGE = 1e100  # no run measures such a number, and its square has none


@dataclass(frozen=True)
class Series:
    """A metric over training steps: step [n] rising, value [n] float64 (NaN and inf are possible).

    key: the metric's name, where it has one.
    """

    step: np.ndarray
    value: np.ndarray
    key: str = ""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def finite(self) -> Series:
        """Without the entries that are not finite."""
        known = np.isfinite(self.value)
        return Series(self.step[known], self.value[known], self.key)


@dataclass(frozen=True)
class RunHistory:
    """What a run wrote: rows of metrics.jsonl by step and its configuration, either of which may lack
    anything.
    """

    rows: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]

    @cached_property
    def keys(self) -> list[str]:
        """All metric keys, in the order of their first appearance."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key != "step"))

    def series(self, key: str) -> Series:
        """The metric over the training steps that have it; empty when none has."""
        if key not in self._series:
            points = ((row["step"], number(row.get(key))) for row in self.rows)
            known = [(step, value) for step, value in points if value is not None]
            steps, values = zip(*known, strict=True) if known else ((), ())
            self._series[key] = Series(
                np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64), key
            )
        return self._series[key]

    @cached_property
    def _series(self) -> dict[str, Series]:
        """The series that were asked for."""
        return {}

    def setting(self, path: str, default: Any = None) -> Any:
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
        return -1.0 if float(self.setting("advantage.sign", 1.0)) < 0 else 1.0

    @property
    def clip(self) -> float:
        """Half of the clip range; its narrower side where the two differ.

        A run reports what an unset range came to, which at advantage.ratio_scope=position depends on the
        latent grid; before it has, the range of one ratio a sample stands for it.
        """
        told = self.series("clip/range").finite
        if len(told):
            return float(told.value[-1])
        clip_range = self.setting("advantage.clip_range")
        if clip_range is not None:
            return float(min(clip_range)) if isinstance(clip_range, Sequence) else float(clip_range)
        return DEFAULT_CLIP_RANGE

    @cached_property
    def gain(self) -> float:
        """How far the reward has moved the way that was wanted, in standard errors: the last third against
        the first steps or the first third, whichever moved more; 0 below 9 steps.
        """
        return self.sign * moved(self.series("reward/mean").finite)


def number(value: Any) -> float | None:
    """A number, or one of the strings that stand for NaN and the infinities, which JSON has not; None for
    anything else. What is beyond HUGE counts as infinite.
    """
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            value = float(value)
        except ValueError:
            return None
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value if not abs(value) > HUGE else math.copysign(math.inf, value)


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
    changes = []
    for first in (values[: count // 3], values[: min(window_of(count), count // 3)]):
        error = spread * math.sqrt(1 / len(first) + 1 / len(last))
        changes.append(float(last.mean() - first.mean()) / error)
    return max(changes, key=abs)
