"""Held-out results of arms as tables, and how long each took to a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlvis.observe.history import Series
from rlvis.report import wording
from rlvis.report.compare.arms import Arm, Member
from rlvis.report.compare.measured import Measure, Result, Several, final_rewards
from rlvis.report.panels.base import Panel, Table, num, short

NOTE = (
    "Gain: since the first evaluation. Differences are prompt by prompt, from the same noise, and seed by "
    "seed where the arms share seeds; 95 % intervals draw prompts anew, and seeds where there are three or "
    "more (two-way bootstrap, rlvis/evaluation/statistics.py). Better on: share of prompts where the arm is "
    "better, ties as halves. p: after Holm's correction for the number of arms."
)


def held_out(several: Several) -> Panel | None:
    """Last results of every arm, its gain, and its difference from the base; None without evaluations."""
    measured = several.measured
    if measured is None:
        return None
    if not measured.measures:
        return Panel("", "text", "", " ".join(measured.notes))
    tables = [(each.detail, _table(each, several.base.label)) for each in measured.measures]
    parts = [panel for detail, panel in tables if not detail]
    details = [panel for detail, panel in tables if detail]
    if details:
        parts.append(Panel("Attributes and diversity", "parts", details, folded=True))
    return Panel("", "parts", parts, " ".join([f"After {measured.step} steps. {NOTE}", *measured.notes]))


def _table(measure: Measure, base: str) -> Panel:
    arms = len({result.arm.label for result in measure.results})
    header: tuple[str, ...] = ("arm", "mean", "gain", "95 %")
    if arms > 1:
        header += (f"from {short(base, 30)}", "95 %", "better on", "95 %", "p, Holm")
    header += ("prompts", "runs")
    rows = [_row(result, base, arms > 1) for result in measure.results]
    doubts = [
        f"{short(r.arm.label, 60)}: {each.doubt} ({what})."
        for r in measure.results
        for each, what in ((r.gain, "gain"), (r.against, f"from {base}"))
        if each is not None and each.doubt
    ]
    return Panel(
        measure.name,
        "table",
        Table(header, rows, frozenset(range(1, len(header))), stacked=True),
        " ".join(doubts),
    )


def _row(result: Result, base: str, compared: bool) -> tuple[str, ...]:
    gain, against = result.gain, result.against
    cells = [short(result.arm.label, 80), num(result.mean)]
    cells += ["-", "-"] if gain is None else [wording.size(gain), wording.between(gain.bounds)]
    if compared and against is None:
        cells += ["-" if result.arm.label == base else "other prompts", "-", "-", "-", "-"]
    elif compared and against is not None:
        share = wording.shares(against.better_bounds)
        p = "-" if math.isnan(result.p) else f"{result.p:.2g}" if result.p >= 0.001 else "< 0.001"
        cells += [wording.size(against), wording.between(against.bounds), f"{against.better:.0%}", share, p]
    return (*cells, str(result.prompts), str(result.runs))


def threshold(several: Several) -> Panel | None:
    """Steps, samples and minutes until each arm first reaches a threshold of the first held-out measure, or
    of the reward where nothing was held out; None where neither is there.
    """
    key, name = _watched(several)
    if not key:
        return None
    base = several.base.label
    level, said = several.threshold, "as typed"
    if level is None:
        last = [curve.value[-1] for m in several.base.members if len(curve := _curve(m, key))]
        first = [curve.value[0] for m in several.base.members if len(curve := _curve(m, key))]
        if not last:
            return None
        level, said = float(np.mean(last)), f"what {base} ends at"
        if level <= np.mean(first):
            note = (
                f"{base} ends at a {name} of {num(level)} and began at {num(float(np.mean(first)))}: where "
                "it ends is no threshold. Type threshold=NUMBER for one."
            )
            return Panel("To a threshold", "text", "", note)
    rows = [_reached(arm, key, level) for arm in (several.base, *several.others)]
    header = ("arm", "runs that reached it", "steps", "samples", "minutes")
    how = (
        "at the first evaluation that does" if key.startswith("eval/") else "the last tenth of steps averaged"
    )
    note = (
        f"{name[0].upper()}{name[1:]} {num(level)}, {said}. Medians (lowest .. highest) over the runs that "
        f"reached it, {how}; minutes are those of training steps."
    )
    return Panel(
        f"To a {name} of {num(level)}",
        "table",
        Table(header, rows, frozenset({1, 2, 3, 4}), stacked=True),
        note,
    )


def _watched(several: Several) -> tuple[str, str]:
    """The metric that is followed, and what it is called; empty where there is none, or rewards are not one
    measure.
    """
    keys = {key for member in several.base.members for key in member.run.keys}
    held = [key for key in keys if key.startswith("eval/") and key.count("/") == 1]
    for key in ("eval/accuracy", "eval/score", *sorted(held)):
        if key in keys:
            return key, f"held-out {key.removeprefix('eval/')}"
    alike = len({member.rewarded_by for member in several.members}) == 1
    return ("reward/mean", "reward") if alike and final_rewards(several) else ("", "")


def _curve(member: Member, key: str) -> Series:
    """The metric over steps; a reward as its mean over a tenth of the steps before, for single steps are
    noise.
    """
    series = member.run.series(key).finite
    if key.startswith("eval/") or not len(series):
        return series
    window = max(1, round(0.1 * len(series)))
    means = np.convolve(series.value, np.full(window, 1 / window), "valid")
    return Series(series.step[window - 1 :], means, key)


def _reached(arm: Arm, key: str, level: float) -> tuple[str, ...]:
    found = []
    for member in arm.members:
        curve = _curve(member, key)
        there = np.flatnonzero(curve.value >= level - 1e-12)
        if len(there):
            found.append(_spent(member, int(curve.step[there[0]])))
    columns = list(zip(*found, strict=True)) if found else [(), (), ()]
    count = f"{len(found)} of {len(arm.members)}"
    return (short(arm.label, 80), count, *(_median(column) for column in columns))


def _spent(member: Member, step: int) -> tuple[float, float, float]:
    """Steps, samples (NaN where the configuration does not say) and minutes up to a step."""
    run = member.run
    sizes = [run.setting(f"data.{key}") for key in ("prompts_per_step", "samples_per_prompt")]
    each = sizes[0] * sizes[1] if all(isinstance(size, int) for size in sizes) else math.nan
    times = run.series("time/step").finite
    return float(step), step * each, float(times.value[times.step <= step].sum()) / 60


def _median(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    middle, low, high = (_plain(float(v)) for v in (np.median(known), min(known), max(known)))
    return middle if low == high else f"{middle} ({low} .. {high})"


def _plain(value: float) -> str:
    """A count without an exponent, a small number with three digits."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
