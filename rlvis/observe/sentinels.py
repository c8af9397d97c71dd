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
from typing import ClassVar

import numpy as np

from rlvis.observe.step_statistics import PREFIX
from rlvis.observe.symptom import noise
from rlvis.record_base import Record
from rlvis.schema import SentinelConfig

TRAINED, EVALUATED = "trained", "eval_score"
RISEN = 3.0  # standard errors that the trained reward must have risen by
FEW = 3  # values that a mean is taken of, at least
EVALUATIONS = 2  # in a row, where patience asks for no fewer
SHARE = 0.03  # of the median: the least deviation


@dataclass(frozen=True)
class Kind:
    """A statistic of pictures: unit, least deviation, and what more and less of it look like; "" where that
    side is no alarm.
    """

    unit: str
    floor: float
    more: str
    less: str


KINDS: dict[str, Kind] = {
    "edge_density": Kind(
        "of the pixels",
        0.002,
        "more edges: noise, texture or lines all over",
        "fewer edges: blur, flat areas, wiped backgrounds",
    ),
    "colour_entropy": Kind(
        "bits",
        0.05,
        "more colours: noise or rainbow patterns",
        "fewer colours: one background, or one colour for everything",
    ),
    "saturation": Kind("of full scale", 0.005, "garish colours", "faded colours"),
    "spectral_peak": Kind("dB", 0.5, "a grid at the stride of patches or of the autoencoder", ""),
    "motion_energy": Kind(
        "of full scale a frame", 0.001, "clips that jump from frame to frame", "clips that stand still"
    ),
    "flicker": Kind("of full scale", 0.001, "brightness that flickers", ""),
    "diversity": Kind("of full scale", 0.001, "", "samples of a prompt that are nearly the same picture"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch(Record):
    """What the sentinels remember, and what they have changed in the run (checkpointed).

    usual: the first values by name; of evaluations the best so far. recent: the last values of rewards, after
    those. streak: unusual steps in a row; since: the first of them. kl_beta: what an alarm has made of
    advantage.kl_beta, None where it is as configured. lr_scale: of optim.lr. raised: the step that changed
    kl_beta, 0 before.

    >>> Watch().lr_scale
    1.0
    """

    row_axis: ClassVar[str] = "-"
    usual: dict[str, list[float]] = field(default_factory=dict)
    recent: dict[str, list[float]] = field(default_factory=dict)
    streak: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    kl_beta: float | None = None
    lr_scale: float = 1.0
    rollbacks: int = 0
    raised: int = 0


@dataclass(frozen=True)
class Seen:
    """What a step shows. pictures: statistics by name. trained: mean of the trained reward; held_out: those
    of reward terms of weight 0; all times advantage.sign, so that more is what training wants.
    evaluated: eval/score where this step has one; unit: what counts as one deviation of it.
    """

    pictures: Mapping[str, float] = field(default_factory=dict)
    trained: float | None = None
    held_out: Mapping[str, float] = field(default_factory=dict)
    evaluated: float | None = None
    unit: float = 1.0


@dataclass(frozen=True)
class Alarm:
    """A statistic that is unusual for too long. since: its first unusual step; threshold: in deviations."""

    step: int
    statistic: str
    value: float
    usual: float
    deviation: float
    since: int
    threshold: float
    what: str
    why: str


@dataclass(frozen=True)
class Judged:
    """After a step: what to remember, the deviation of each statistic that has a baseline, alarms."""

    watch: Watch
    deviations: dict[str, float]
    alarms: list[Alarm]


def judge(watch: Watch, seen: Seen, step: int, config: SentinelConfig) -> Judged:
    """Compare training step `step`, from 1, with what was usual."""
    memory = _Memory(watch, config.baseline)
    found: dict[str, tuple[float, float, float]] = {}  # value, usual, deviation
    for name, value in seen.pictures.items():
        if (compared := memory.picture(name, value)) is not None:
            found[name] = compared
    found |= memory.rewards(seen)
    alarms = []
    for name, (value, usual, deviation) in found.items():
        late = memory.count(name, step, unusual(name, deviation, config.threshold)) - patience(name, config)
        if late >= 0 and late % config.baseline == 0:
            what, why = words(name, value, usual, deviation, memory.since[name], config)
            alarms.append(
                Alarm(step, name, value, usual, deviation, memory.since[name], config.threshold, what, why)
            )
    return Judged(memory.watch(), {name: deviation for name, (_, _, deviation) in found.items()}, alarms)


def unusual(name: str, deviation: float, threshold: float) -> bool:
    """Whether a deviation is beyond the threshold on a side that counts."""
    kind = KINDS.get(name)
    if kind is None:
        return deviation <= -threshold
    return (deviation >= threshold and bool(kind.more)) or (deviation <= -threshold and bool(kind.less))


def patience(name: str, config: SentinelConfig) -> int:
    """Unusual steps in a row, or evaluations, until the alarm."""
    return min(config.patience, EVALUATIONS) if name == EVALUATED else config.patience


def words(
    name: str, value: float, usual: float, deviation: float, since: int, config: SentinelConfig
) -> tuple[str, str]:
    """(what, why) of an alarm."""
    kind, rounds = KINDS.get(name), "evaluations" if name == EVALUATED else "steps"
    tail = f"since step {since} (alarm: {config.threshold:g} in {patience(name, config)} {rounds} in a row)"
    if kind is None:
        what = (
            f"held-out {name.replace('_', ' ', 1)} fell from {usual:.4g} to {value:.4g} while the trained "
            f"reward rises: {deviation:+.1f} deviations, {tail}"
        )
        return what, "the policy raises the trained number by something that nobody wanted"
    unit = f" {kind.unit}" if kind.unit else ""
    what = (
        f"{name.replace('_', ' ')} is {value:.4g}{unit} and was {usual:.4g} in the first {config.baseline} "
        f"steps: {deviation:+.1f} deviations, {tail}"
    )
    return what, f"{kind.more if deviation > 0 else kind.less}; rewards are often fooled with it"


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

    def picture(self, name: str, value: float) -> tuple[float, float, float] | None:
        if self.learn(name, value):
            return None
        middle, spread = robust(self.usual[name], KINDS[name].floor)
        return value, middle, (value - middle) / spread

    def rewards(self, seen: Seen) -> dict[str, tuple[float, float, float]]:
        """Held-out rewards that fell; 0 where the trained one has not risen."""
        rises = seen.trained is not None and self.moved(TRAINED, seen.trained)[2] >= RISEN
        found = {}
        for name, value in seen.held_out.items():
            now, usual, deviation = self.moved(name, value)
            if math.isfinite(usual):
                found[name] = now, usual, deviation if rises else 0.0
        if seen.evaluated is not None:
            best = max([seen.evaluated, *self.usual.get(EVALUATED, [])])
            self.usual[EVALUATED] = [best]
            fell = (seen.evaluated - best) / seen.unit if rises else 0.0
            found[EVALUATED] = seen.evaluated, best, fell
        return found

    def moved(self, name: str, value: float) -> tuple[float, float, float]:
        """(mean of the last steps, mean of the first, difference in standard errors); NaN, NaN and 0 while
        there are too few.
        """
        if self.learn(name, value):
            return math.nan, math.nan, 0.0
        last = self.recent[name] = [*self.recent.get(name, []), value][-self.baseline :]
        if len(last) < FEW:
            return math.nan, math.nan, 0.0
        first = self.usual[name]
        spread = max(noise(np.asarray([*first, *last])), 1e-12)
        error = spread * math.sqrt(1 / len(first) + 1 / len(last))
        now, usual = float(np.mean(last)), float(np.mean(first))
        return now, usual, (now - usual) / error

    def count(self, name: str, step: int, odd: bool) -> int:
        """Unusual steps in a row, with this one."""
        self.streak[name] = self.streak.get(name, 0) + 1 if odd else 0
        if self.streak[name] == 1:
            self.since[name] = step
        return self.streak[name]


def keys(deviations: Mapping[str, float], alarms: Sequence[Alarm]) -> dict[str, float]:
    """sentinel/* metrics of what was judged."""
    found = {f"{PREFIX}{name}/deviation": value for name, value in deviations.items()}
    return found | {PREFIX + "alarms": float(len(alarms))}
