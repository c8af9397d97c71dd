"""Panels about several runs: verdicts in one table, curves with a line an arm, differences, times."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from rlvis.report import plots
from rlvis.report.compare.arms import Arm, Member, differing
from rlvis.report.folder import section
from rlvis.report.panels.base import Drawing, Panel, Table, drawing, num, short, state
from rlvis.report.panels.timing import STAGES
from rlvis.report.panels.verdict import ends
from rlvis.report.svg import COLORS

COLUMNS = 40  # keys of the table of differences
BAND = (
    "A line an arm: the mean over its runs, at the steps that all of them have. Band: from three runs on "
    "Student's 95 % interval of the mean, of two runs lowest to highest."
)
ALWAYS = ("reward/mean", "eval/accuracy", "eval/score")
CURVES = {
    "group/std_mean": "Spread inside groups",
    "group/zero_variance_fraction": "Groups without a signal",
    "update/grad_norm": "Gradient norm",
    "ratio/max_deviation": "max |ratio - 1|",
    "clip/fraction_high": "Clipped above",
    "kl/approx": "KL, old to new policy",
    "kl/reference": "KL to the reference",
    "trust/weight_std": "Spread of the weights",
    "trust/effective_groups": "Effective groups",
    "map/entropy": "Entropy of the maps",
    "time/step": "Seconds a step",
}
LOGARITHMIC = ("ratio/max_deviation", "kl/approx", "kl/reference")
TERMS = 6


@dataclass(frozen=True)
class Several:
    """What these panels read. to: the page, which links are relative to. room: as in Context."""

    members: list[Member]
    arms: list[Arm]
    to: Path
    room: float = 1.0


def verdicts(several: Several) -> Panel:
    """A row a run: verdict and why, how far, reward, last held-out result, link."""
    rows = [_row(arm, member, several.to) for arm in several.arms for member in arm.members]
    header = ("run", "verdict", "steps", "reward, first", "last", "held-out", "s a step", "arm", "why")
    table = Table(header, rows, frozenset({2, 3, 4, 5, 6}), frozenset({8}))
    without = [m.run.path for m in several.members if not (m.run.path / "report.html").is_file()]
    note = (
        f"Without a report of their own yet: {', '.join(map(str, without))}; type rlvis report RUN."
        * bool(without)
    )
    return Panel("", "table", table, note)


def legend(several: Several) -> Panel:
    """Which line is whose, once for all figures of a tab."""
    shown = []
    for i, arm in enumerate(several.arms[: plots.MOST]):
        dashes = plots.DASHES[i // len(COLORS)]
        pattern = "" if isinstance(dashes, str) else " ".join(str(2 * length) for length in dashes[1])
        shown.append((short(arm.title, 160), i % len(COLORS) + 1, pattern))
    note = f"The first {plots.MOST} of {len(several.arms)} arms are drawn."
    return Panel("", "legend", shown, note if len(several.arms) > plots.MOST else "")


def first_curves(several: Several) -> Panel:
    """The reward and what held-out prompts say."""
    keys = [key for key in ALWAYS if _any(several, key)]
    held = [key for key in _keys(several) if key.startswith("eval/") and key.count("/") == 1]
    keys += [key for key in held if key not in ALWAYS]
    titles = {"reward/mean": "Reward"}
    drawings = [
        _curve(several, key, titles.get(key, f"Held-out {key.removeprefix('eval/')}"), "first-")
        for key in keys[:6]
    ]
    note = BAND if drawings else "No reward was written."
    return Panel("", "figures", drawings, note)


def curves(several: Several) -> Panel:
    """What is trained on, and the update's health, overlaid."""
    terms = [
        k for k in _keys(several) if k.startswith("reward/") and k.count("/") == 2 and k.endswith("/mean")
    ]
    titles = {key: f"Reward term {short(key.split('/')[1], 30)}" for key in terms[:TERMS] if len(terms) > 1}
    titles |= {key: title for key, title in CURVES.items() if _any(several, key)}
    drawings = [_curve(several, key, title) for key, title in titles.items()]
    return Panel("", "figures", drawings, BAND if drawings else "No metrics were written.")


def times(several: Several) -> Panel:
    """Median seconds of each stage, throughput, total time."""
    rows = []
    for member in several.members:
        run = member.run
        medians = [_median(run.series(f"time/{stage}").finite.value) for stage in (*STAGES, "step")]
        speed = _median(run.series("throughput/samples_per_second").finite.value)
        total = run.series("time/step").finite.value.sum() / 60
        memory = run.series("memory/max_gib").finite.value
        gib = num(float(memory.max()), 3) if len(memory) and memory.any() else "-"
        hardware = section(run.manifest, "hardware")
        device = str(hardware.get("gpu") or hardware.get("cpu") or "-")
        rows.append((member.label, *medians, speed, num(float(total), 3), gib, short(device, 40)))
    header = ("run", *STAGES, "step", "samples / s", "steps, min", "memory, GiB", "device")
    note = "Medians over steps, in seconds."
    return Panel("", "table", Table(header, rows, frozenset(range(1, len(header) - 1))), note)


def config(several: Several) -> Panel:
    """Only the keys that differ, a column each."""
    keys = differing(several.members)
    if not keys:
        return Panel("", "text", "", "These runs have the same configuration, seed included.")
    rows = [
        (member.label, *(short(member.flat.get(key, "-"), 60) for key in keys[:COLUMNS]))
        for member in several.members
    ]
    note = f"{len(keys)} keys differ; all others are equal."
    if len(keys) > COLUMNS:
        note += f" The first {COLUMNS} are shown."
    return Panel("", "table", Table(("run", *keys[:COLUMNS]), rows), note)


def _row(arm: Arm, member: Member, to: Path) -> tuple[str | Markup, ...]:
    run, judgement = member.run, member.judgement
    reward = run.series("reward/mean").finite
    first, last = (num(value, 3) for value in ends(reward)[:2]) if len(reward) else ("-", "-")
    wanted = run.setting("train.steps")
    why = "; ".join(f"{reason.name}: {reason.what}" for reason in judgement.reasons[:1])
    if others := [reason.name for reason in judgement.reasons[1:4]]:
        why += f"; also {', '.join(others)}" + (" and others" if len(judgement.reasons) > 4 else "")
    unfinished = "" if judgement.finished else " (unfinished)"
    return (
        _link(member, to),
        state(judgement.verdict, judgement.verdict),
        f"{run.steps} / {wanted}{unfinished}" if isinstance(wanted, int) else str(run.steps),
        first,
        last,
        _held_out(member),
        _median(run.series("time/step").finite.value),
        arm.label,
        short(why, 400) or ("-" if judgement.finished else judgement.progress),
    )


def _link(member: Member, to: Path) -> str | Markup:
    """The run's own report, relative to the page; plain text where it has none."""
    page = member.run.path / "report.html"
    if not page.is_file():
        return member.label
    where = quote(os.path.relpath(page.resolve(), to.resolve().parent))
    return Markup('<a href="{}">{}</a>').format(where, member.label)


def _held_out(member: Member) -> str:
    """The last evaluation's accuracy, else score or first scorer, with its standard error."""
    entries = member.evaluations.entries
    if not entries:
        return "-"
    means, errors = entries[-1]["mean"], entries[-1]["standard_error"]
    for key in ("eval/accuracy", "eval/score", *means):
        if key in means:
            error = errors.get(key)
            return num(means[key], 3) + (f" +- {num(error, 2)}" if error is not None else "")
    return "-"


def _curve(several: Several, key: str, title: str, prefix: str = "") -> Drawing:
    spreads = {arm.title: arm.spread(key) for arm in several.arms}
    name = prefix + "compare-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in key.lower())
    log = key in LOGARITHMIC
    return drawing(title, lambda: plots.spreads(name, spreads, log=log, legend=False))


def _keys(several: Several) -> list[str]:
    return list(dict.fromkeys(key for member in several.members for key in member.run.keys))


def _any(several: Several, key: str) -> bool:
    return any(len(arm.spread(key).middle) for arm in several.arms)


def _median(values: np.ndarray) -> str:
    return num(float(np.median(values)), 3) if len(values) else "-"


def labels(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell runs apart."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]
