"""Runs grouped into arms: those that differ only in their seed are one arm, and are averaged.

An arm is called by what was typed for it and not for the others; where that does not tell arms apart (a sweep
started by one command line), by the keys of the configuration that do.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlvis.observe.history import Series
from rlvis.report import heldout
from rlvis.report.folder import RunFolder
from rlvis.report.judge import Judgement
from rlvis.report.panels.configuration import OF_START, flatten
from rlvis.report.plots import Spread

FREE = (*OF_START, "seed", "name", "doctor", "eval.run")  # do not make another arm
DEFAULTS = "defaults"
UNSET = "null"  # also what a key of another version of rlvis counts as
STUDENT = 3  # runs from which a band is Student's 95 % interval of the mean; below it is lowest to highest


@dataclass(frozen=True)
class Member:
    """A run of a comparison. label: what it is called in tables."""

    run: RunFolder
    judgement: Judgement
    label: str

    @cached_property
    def flat(self) -> dict[str, str]:
        """Its configuration by dotted key."""
        return dict(flatten(self.run.config)) if self.run.config else {}

    @cached_property
    def evaluations(self) -> heldout.Evaluations:
        """Its held-out evaluations."""
        return heldout.read(self.run.path)


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
    """The arms in the order in which their first run was given."""
    alike: dict[object, list[Member]] = {}
    for member in members:
        settings = tuple(sorted(i for i in member.flat.items() if not _free(i[0]) and i[1] != UNSET))
        alike.setdefault(settings or member.run.path, []).append(member)
    groups = list(alike.values())
    return [Arm(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def differing(members: Sequence[Member]) -> list[str]:
    """The keys of the configuration that are not equal in all runs, but for those that say where a run is."""
    keys = dict.fromkeys(key for member in members for key in member.flat)
    return [
        key
        for key in keys
        if key.split(".")[0] not in OF_START and len({member.flat.get(key, UNSET) for member in members}) > 1
    ]


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


def _free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _labels(groups: Sequence[Sequence[Member]]) -> list[str]:
    """A label of each arm, all of them different."""
    if len(groups) == 1:
        return [groups[0][0].run.name]
    labels = _typed(groups)
    if len(set(labels)) < len(groups):
        labels = _by_keys([group[0].flat for group in groups])
    count: dict[str, int] = {}
    for i, label in enumerate(labels):
        count[label] = count.get(label, 0) + 1
        if count[label] > 1:
            labels[i] = f"{label} ({count[label]})"
    return labels


def _typed(groups: Sequence[Sequence[Member]]) -> list[str]:
    """The words of each arm's command line that not all arms have; nothing where one is not known."""
    words = [typed for group in groups if (typed := _words(group[0].run)) is not None]
    if len(words) < len(groups):
        return []
    common = set(words[0]).intersection(*words[1:])
    return [" ".join(word for word in typed if word not in common) or DEFAULTS for typed in words]


def _words(run: RunFolder) -> list[str] | None:
    command = run.manifest.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else None
    except ValueError:
        return None
    if words is None:
        return None
    return [word for word in words if "=" in word and not _free(word.split("=")[0].lstrip("+"))]


def _by_keys(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """The fewest keys that tell the arms apart, each chosen to split what is still alike the most."""
    keys = [k for k in dict.fromkeys(k for settings in flat for k in settings) if not _free(k)]
    keys = [k for k in keys if len({settings.get(k, UNSET) for settings in flat}) > 1]
    labels = [""] * len(flat)
    while keys and len(set(labels)) < len(flat):
        tried = {
            k: [f"{a} {k}={t.get(k, UNSET)}".strip() for a, t in zip(labels, flat, strict=True)] for k in keys
        }
        best = max(keys, key=lambda k: len(set(tried[k])))
        if len(set(tried[best])) == len(set(labels)):
            break
        labels = tried[best]
        keys.remove(best)
    return [label or "run" for label in labels]
