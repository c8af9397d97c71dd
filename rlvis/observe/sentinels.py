"""Reward-hacking sentinels: what is usual in the first steps of a run, and an alarm where it stays unusual.

Of every statistic the first `baseline` steps give median and robust deviation (with a floor, so that a number
that hardly moves is no alarm); beyond `threshold` deviations for `patience` steps in a row is an alarm, and
again every `baseline` steps while it lasts. Held-out rewards are looked at only while the trained one rises.
A pure function from state to state: the state is checkpointed, so a resumed run decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from rlvis.findings import Finding, Severity
from rlvis.observe.history import noise
from rlvis.observe.sentinel_table import EVALUATED, KINDS, deviation_key, patience, unusual, within, words
from rlvis.observe.step_statistics import PREFIX
from rlvis.record_base import Record
from rlvis.schema import SentinelConfig

TRAINED = "trained"
RISEN = 3.0  # standard errors that the trained reward must have risen by
FEW = 3  # values that a mean is taken of, at least
SHARE = 0.03  # of the median: the least deviation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch(Record):
    """What the sentinels remember, and what they have changed in the run (checkpointed).

    usual: the first values by name; of evaluations the best so far. recent: the last values of rewards, after
    those. streak: unusual steps in a row; since: the first of them. lr_scale: of optim.lr.

    >>> Watch().lr_scale
    1.0
    """

    row_axis: ClassVar[str] = "-"
    usual: dict[str, list[float]] = field(default_factory=dict)
    recent: dict[str, list[float]] = field(default_factory=dict)
    streak: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    lr_scale: float = 1.0
    rollbacks: int = 0


@dataclass(frozen=True)
class Observation:
    """What a step shows. pictures: statistics by name. trained: mean of the trained reward; held_out: those
    of reward terms of weight 0; all times advantage.sign, so that more is what training wants.
    evaluated: eval/score where this step has one; unit: what counts as one deviation of it.
    """

    pictures: Mapping[str, float] = field(default_factory=dict)
    trained: float | None = None
    held_out: Mapping[str, float] = field(default_factory=dict)
    evaluated: float | None = None
    unit: float = 1.0


class Compared(NamedTuple):
    """A statistic beside what was usual, and how far it is from there."""

    value: float
    usual: float
    deviation: float


@dataclass(frozen=True)
class Judged:
    """After a step: what to remember, the deviation of each statistic that has a baseline, alarms.

    An alarm is named as its statistic; its numbers are value, usual, deviation, since (its first unusual
    step) and threshold (in deviations).
    """

    watch: Watch
    deviations: dict[str, float]
    alarms: list[Finding]


def judge(watch: Watch, observation: Observation, step: int, config: SentinelConfig) -> Judged:
    """Compare training step `step`, from 1, with what was usual."""
    memory = _Memory(watch, config.baseline)
    compared: dict[str, Compared] = {}
    for name, value in observation.pictures.items():
        if (picture := memory.picture(name, value)) is not None:
            compared[name] = picture
    compared |= memory.rewards(observation)
    alarms = []
    for name, statistic in compared.items():
        odd = unusual(name, statistic.deviation, config.threshold)
        late = memory.count(name, step, odd) - patience(name, config)
        if late >= 0 and late % config.baseline == 0:
            alarms.append(_alarm(name, statistic, step, memory.since[name], config))
    return Judged(memory.watch(), {name: s.deviation for name, s in compared.items()}, alarms)


def _alarm(name: str, statistic: Compared, step: int, since: int, config: SentinelConfig) -> Finding:
    what, why = words(name, *statistic, since, config)
    return Finding(
        name=name,
        severity=Severity.warning,
        what=what,
        numbers={**statistic._asdict(), "since": since, "threshold": config.threshold},
        wanted=within(config),
        why=why,
        source=deviation_key(name),
        step=step,
    )


def robust(values: Sequence[float], floor: float) -> tuple[float, float]:
    """Median, and 1.4826 times the median distance from it, at least the floor and SHARE of the median."""
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(np.asarray(values) - middle)))
    return middle, max(spread, floor, SHARE * abs(middle))


class _Memory:
    """A watch that is being changed."""

    def __init__(self, watch: Watch, baseline: int) -> None:
        self.before, self.baseline = watch, baseline
        self.usual = {name: list(values) for name, values in watch.usual.items()}
        self.recent = {name: list(values) for name, values in watch.recent.items()}
        self.streak, self.since = dict(watch.streak), dict(watch.since)

    def watch(self) -> Watch:
        return self.before.replace(usual=self.usual, recent=self.recent, streak=self.streak, since=self.since)

    def learn(self, name: str, value: float) -> bool:
        """Take a value into the baseline; False once that is complete."""
        known = self.usual.setdefault(name, [])
        if len(known) >= self.baseline:
            return False
        known.append(value)
        return True

    def picture(self, name: str, value: float) -> Compared | None:
        if self.learn(name, value):
            return None
        middle, spread = robust(self.usual[name], KINDS[name].floor)
        return Compared(value, middle, (value - middle) / spread)

    def rewards(self, shown: Observation) -> dict[str, Compared]:
        """Held-out rewards that fell; 0 where the trained one has not risen."""
        rises = shown.trained is not None and self.moved(TRAINED, shown.trained).deviation >= RISEN
        compared = {}
        for name, value in shown.held_out.items():
            moved = self.moved(name, value)
            if math.isfinite(moved.usual):
                compared[name] = moved if rises else moved._replace(deviation=0.0)
        if shown.evaluated is not None:
            best = max([shown.evaluated, *self.usual.get(EVALUATED, [])])
            self.usual[EVALUATED] = [best]
            fall = (shown.evaluated - best) / shown.unit if rises else 0.0
            compared[EVALUATED] = Compared(shown.evaluated, best, fall)
        return compared

    def moved(self, name: str, value: float) -> Compared:
        """Mean of the last steps, mean of the first, difference in standard errors; NaN, NaN and 0 while
        there are too few.
        """
        few = Compared(math.nan, math.nan, 0.0)
        if self.learn(name, value):
            return few
        last = self.recent[name] = [*self.recent.get(name, []), value][-self.baseline :]
        if len(last) < FEW:
            return few
        first = self.usual[name]
        spread = max(noise(np.asarray([*first, *last])), 1e-12)
        error = spread * math.sqrt(1 / len(first) + 1 / len(last))
        now, usual = float(np.mean(last)), float(np.mean(first))
        return Compared(now, usual, (now - usual) / error)

    def count(self, name: str, step: int, odd: bool) -> int:
        """Unusual steps in a row, with this one."""
        self.streak[name] = self.streak.get(name, 0) + 1 if odd else 0
        if self.streak[name] == 1:
            self.since[name] = step
        return self.streak[name]


def keys(deviations: Mapping[str, float], alarms: Sequence[Finding]) -> dict[str, float]:
    """sentinel/* metrics of what was judged."""
    metrics = {deviation_key(name): value for name, value in deviations.items()}
    return metrics | {PREFIX + "alarms": float(len(alarms))}
