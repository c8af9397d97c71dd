"""Runs grouped into arms: those that differ only in their seed are one arm, and are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rlvis.observe.history import Series
from rlvis.report import heldout
from rlvis.report.compare import names
from rlvis.report.compare.names import UNSET
from rlvis.report.folder import RunFolder
from rlvis.report.judge import Judgement
from rlvis.report.panels.configuration import OF_START, flatten
from rlvis.report.plots import Spread

STUDENT = 3  # runs from which a band is Student's 95 % interval of the mean; below it is lowest to highest
CONTROLS = (names.DEFAULTS, "grpo")  # arms that others are held against, if nobody says which


@dataclass(frozen=True)
class Member:
    """A run of a comparison. folder: that of the run, as short as tells it from the others; label: what the
    run is called ("bpgo, seed 1").
    """

    run: RunFolder
    judgement: Judgement
    folder: str
    label: str = ""

    @cached_property
    def flat(self) -> dict[str, str]:
        """Its configuration by dotted key."""
        return dict(flatten(self.run.config)) if self.run.config else {}

    @cached_property
    def evaluations(self) -> heldout.Evaluations:
        """Its held-out evaluations."""
        return heldout.read(self.run.path)

    @property
    def seed(self) -> str:
        """Of its training; empty where it is not known."""
        return str(self.run.setting("seed", ""))

    @property
    def rewarded_by(self) -> tuple[tuple[str, str], ...]:
        """The settings of its reward: those of two runs must be equal, or their rewards are two measures."""
        return tuple(sorted(item for item in self.flat.items() if item[0].startswith("reward.terms.")))


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed."""

    label: str
    members: list[Member]

    @property
    def title(self) -> str:
        """The label with the number of runs."""
        return self.label if len(self.members) == 1 else f"{self.label} (n={len(self.members)})"

    def spread(self, key: str) -> Spread:
        """Mean of a metric over the runs, at the steps that all of them have, with its range: Student's 95 %
        interval of the mean from three runs on, lowest to highest of two.
        """
        return over_runs([member.run.series(key).finite for member in self.members])


def arms(members: Sequence[Member]) -> list[Arm]:
    """The arms in the order in which their first run was given, their runs named."""
    alike: dict[object, list[Member]] = {}
    for member in members:
        settings = tuple(sorted(i for i in member.flat.items() if not names.is_free(i[0]) and i[1] != UNSET))
        alike.setdefault(settings or member.run.path, []).append(member)
    groups = list(alike.values())
    firsts = [group[0] for group in groups]
    labels = names.of_arms([first.run for first in firsts], [first.flat for first in firsts])
    found = []
    for label, group in zip(labels, groups, strict=True):
        seeds = [member.seed or None for member in group]
        called = names.of_runs(label, seeds, [member.folder for member in group], len(groups) == 1)
        found.append(Arm(label, [replace(m, label=name) for m, name in zip(group, called, strict=True)]))
    return found


def base_of(found: Sequence[Arm], label: str | None = None) -> Arm:
    """The arm that others are held against: that of the label, else the defaults, grpo, or the first.

    Raises ValueError for a label that no arm has.
    """
    by = {arm.label: arm for arm in found}
    if label is not None and label not in by:
        raise ValueError(f"report: base={label} is no arm; these are: {', '.join(by)}")
    wanted = [label, *CONTROLS] if label is not None else CONTROLS
    return next((by[each] for each in wanted if each in by), found[0])


def differing(members: Sequence[Member]) -> list[str]:
    """The keys of the configuration that are not equal in all runs, but for those that say where a run is."""
    keys = dict.fromkeys(key for member in members for key in member.flat)
    return [
        key
        for key in keys
        if key.split(".")[0] not in OF_START and len({member.flat.get(key, UNSET) for member in members}) > 1
    ]


def by_seed(members: Sequence[Member], values: Mapping[str, float]) -> dict[str, float]:
    """Seed -> mean of the values of its runs, given by the run's label; runs without one are left out."""
    found: dict[str, list[float]] = {}
    for member in members:
        if member.label in values:
            found.setdefault(member.seed, []).append(values[member.label])
    return {seed: sum(each) / len(each) for seed, each in found.items()}


def over_runs(curves: Sequence[Series]) -> Spread:
    """See `Arm.spread`."""
    from scipy import stats

    steps = curves[0].step
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.step)
    values = np.stack([curve.value[np.searchsorted(curve.step, steps)] for curve in curves])
    mean, n = values.mean(0), len(values)
    if n < STUDENT:
        return Spread(Series(steps, mean), values.min(0), values.max(0))
    half = float(stats.t.ppf(0.975, n - 1)) * values.std(0, ddof=1) / np.sqrt(n)
    return Spread(Series(steps, mean), mean - half, mean + half)
