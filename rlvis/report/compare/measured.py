"""What the arms came to on their held-out prompts, paired prompt by prompt and seed by seed; on their reward
where nothing was held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlvis.evaluation import statistics
from rlvis.evaluation.results import DIVERSITY
from rlvis.evaluation.statistics import Bounds, Comparison
from rlvis.evaluation.suites import RIGHT
from rlvis.report import heldout
from rlvis.report.compare.arms import Arm, Member, by_seed
from rlvis.report.heldout import PerPrompt
from rlvis.report.panels.verdict import ends

if TYPE_CHECKING:
    import pandas as pd

MEASURES = 24


@dataclass(frozen=True)
class Result:
    """An arm on one measure. mean: over prompts and runs; gain: since the first evaluation; against: the base
    arm, None for itself and where they share no prompt; p: of that, by Holm over the arms; paired: whether
    seed was held against seed.
    """

    arm: Arm
    mean: float
    prompts: int
    runs: int
    gain: Comparison | None
    against: Comparison | None = None
    p: float = math.nan
    paired: bool = True


@dataclass(frozen=True)
class Measure:
    """A measure and what each arm came to. detail: it says what a policy is like, not which is better."""

    name: str
    column: str
    results: list[Result]

    @property
    def detail(self) -> bool:
        """Whether it is one attribute among others, or no merit by itself."""
        return RIGHT in self.column or self.column == DIVERSITY


@dataclass(frozen=True)
class Measured:
    """step: at which the arms were evaluated last, and the runs that were; None without one in common. notes:
    sentences on what is left out or not alike.
    """

    step: int | None
    members: list[Member]
    measures: list[Measure]
    notes: list[str]


@dataclass(frozen=True)
class Several:
    """What the panels of a comparison read.

    to: the page, which links are relative to. room: as in Context. base: the arm that others are held
    against. threshold: of the first held-out measure, or the reward; None: what the base arm ends at.
    """

    arms: list[Arm]
    to: Path
    base: Arm
    threshold: float | None = None
    room: float = 1.0

    @property
    def members(self) -> list[Member]:
        """All runs, arm by arm."""
        return [member for arm in self.arms for member in arm.members]

    @property
    def others(self) -> list[Arm]:
        """All arms but the base."""
        return [arm for arm in self.arms if arm is not self.base]

    @cached_property
    def measured(self) -> Measured | None:
        """What the arms came to on held-out prompts; None where no run was evaluated."""
        return _measure(self)


def _measure(several: Several) -> Measured | None:
    """The results of all arms at their last common evaluation; None where no run was evaluated."""
    evaluated = [arm for arm in several.arms if any(m.evaluations.entries for m in arm.members)]
    if not evaluated:
        return None
    steps = [{int(e["step"]) for m in arm.members for e in m.evaluations.entries} for arm in evaluated]
    common = set.intersection(*steps)
    if not common:
        note = "The arms were not evaluated at a common step, so their results are not compared."
        return Measured(None, [], [], [note])
    step, tables = max(common), {}
    for member in several.members:
        if any(e["step"] == step for e in member.evaluations.entries):
            table = member.evaluations.table(step)
            if table is not None:
                tables[member.label] = table
    found = [member for member in several.members if member.label in tables]
    lacking = [member.label for member in several.members if member.label not in tables]
    notes = [f"Without results after {step} steps, and left out: {', '.join(lacking)}."] if lacking else []
    notes += _other_settings(found, step)
    if several.base.label not in {arm.label for arm in several.arms for m in arm.members if m in found}:
        return Measured(step, found, [], [*notes, f"{several.base.label} has no results to compare with."])
    before = {m.label: first for m in found if (first := _first(m, step)) is not None}
    column_of = heldout.measures(next(tables[m.label] for m in several.base.members if m in found))
    measures = [
        Measure(name, column, _results(several, found, tables, before, column))
        for name, column in list(column_of.items())[:MEASURES]
    ]
    return Measured(step, found, measures, notes)


def final_rewards(several: Several) -> dict[str, float]:
    """Run -> mean reward of the last tenth of its steps."""
    rewards = {member.label: member.run.series("reward/mean").finite for member in several.members}
    return {label: ends(series)[1] for label, series in rewards.items() if len(series)}


def reward_against(several: Several, arm: Arm, rewards: Mapping[str, float]) -> tuple[float, Bounds, int]:
    """Final reward of an arm over the base's: the difference, its interval over the seeds that both have, and
    how many these are. Without a common seed: of the means, without an interval.
    """
    ours, theirs = by_seed(arm.members, rewards), by_seed(several.base.members, rewards)
    shared = [seed for seed in theirs if seed in ours]
    if not shared:
        return float(np.mean(list(ours.values())) - np.mean(list(theirs.values()))), Bounds(), 0
    a, b = (np.array([each[seed] for seed in shared]) for each in (theirs, ours))
    return float((b - a).mean()), statistics.over_seeds(a, b), len(shared)


def _results(
    several: Several,
    found: Sequence[Member],
    tables: Mapping[str, pd.DataFrame],
    before: Mapping[str, pd.DataFrame],
    column: str,
) -> list[Result]:
    """Each arm that has the column, the base first; p values by Holm over the arms."""
    results, base = [], _seeds(several.base, found, tables, column)
    for arm in (several.base, *several.others):
        per = _seeds(arm, found, tables, column)
        if not per:
            continue
        means = [sum(each.values()) / len(each) for each in per.values() if each]
        runs = [m for m in arm.members if m in found and m.label in before and column in before[m.label]]
        gain = heldout.difference(
            [heldout.per_prompt([before[m.label]], column) for m in runs],
            [heldout.per_prompt([tables[m.label]], column) for m in runs],
        ) if runs else None  # fmt: skip
        count = sum(m in found for m in arm.members)
        prompts = max(map(len, per.values()))
        result = Result(arm, float(np.mean(means)) if means else math.nan, prompts, count, gain)
        if arm is not several.base and base:
            shared = [seed for seed in base if seed in per]
            theirs = [base[seed] for seed in shared] or [_averaged(list(base.values()))]
            ours = [per[seed] for seed in shared] or [_averaged(list(per.values()))]
            result = replace(result, against=heldout.difference(theirs, ours), paired=bool(shared))
        results.append(result)
    p = statistics.holm([r.against.bounds.p if r.against else math.nan for r in results])
    return [replace(result, p=value) for result, value in zip(results, p, strict=True)]


def _seeds(
    arm: Arm, found: Sequence[Member], tables: Mapping[str, pd.DataFrame], column: str
) -> dict[str, PerPrompt]:
    """Seed -> result of each prompt."""
    of: dict[str, list[pd.DataFrame]] = {}
    for member in arm.members:
        if member in found and column in tables[member.label]:
            of.setdefault(member.seed, []).append(tables[member.label])
    return {seed: heldout.per_prompt(each, column) for seed, each in of.items()}


def _first(member: Member, step: int) -> pd.DataFrame | None:
    """The samples of a run's first evaluation, if that came before `step`."""
    first = member.evaluations.entries[0]["step"]
    return member.evaluations.table(first) if first < step else None


def _averaged(per: Sequence[PerPrompt]) -> PerPrompt:
    """Mean over seeds of each prompt that all of them have."""
    keys = [key for key in per[0] if all(key in each for each in per)]
    return {key: sum(each[key] for each in per) / len(per) for key in keys}


def _other_settings(members: Sequence[Member], step: int) -> list[str]:
    """A sentence on evaluation settings that are not equal, the policy aside."""
    settings = [e.get("settings") for m in members for e in m.evaluations.entries if e["step"] == step]
    known = [s for s in settings if isinstance(s, dict)]
    keys = dict.fromkeys(key for s in known for key in s if key != "model")
    odd = [key for key in keys if len({str(s.get(key)) for s in known}) > 1]
    return [f"Beware: the evaluations differ in {', '.join(odd)}."] if odd else []
