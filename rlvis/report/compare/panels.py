"""Panels about several runs: curves with a line an arm, times, what differs in the configuration."""

from __future__ import annotations

import re

import numpy as np

from rlvis.report import plots
from rlvis.report.compare.arms import differing
from rlvis.report.compare.measured import Several
from rlvis.report.folder import section
from rlvis.report.panels.base import Drawing, Panel, Table, drawing, num, short
from rlvis.report.panels.timing import STAGES
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
SHARES = re.compile(r"eval/(.*/)?accuracy(/.*)?|eval/right/.*")  # of which the axis goes from 0 to 1
TERMS = 6


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
    return Panel(
        "A step", "table", Table(header, rows, frozenset(range(1, len(header) - 1)), stacked=True), note
    )


def config(several: Several) -> Panel:
    """Only the keys that differ, a column each."""
    keys = differing(several.members)
    if not keys:
        return Panel("", "text", "", "These runs have the same configuration, seed included.")
    rows = [
        (member.label, member.folder, *(short(member.flat.get(key, "-"), 60) for key in keys[:COLUMNS]))
        for member in several.members
    ]
    note = f"{len(keys)} keys differ; all others are equal."
    if len(keys) > COLUMNS:
        note += f" The first {COLUMNS} are shown."
    return Panel("", "table", Table(("run", "folder", *keys[:COLUMNS]), rows, stacked=True), note)


def _curve(several: Several, key: str, title: str, prefix: str = "") -> Drawing:
    spreads = {arm.title: arm.spread(key) for arm in several.arms}
    name = prefix + "compare-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in key.lower())
    log, share = key in LOGARITHMIC, SHARES.fullmatch(key) is not None
    return drawing(title, lambda: plots.spreads(name, spreads, log=log, legend=False, share=share))


def _keys(several: Several) -> list[str]:
    return list(dict.fromkeys(key for member in several.members for key in member.run.keys))


def _any(several: Several, key: str) -> bool:
    return any(len(arm.spread(key).middle) for arm in several.arms)


def _median(values: np.ndarray) -> str:
    return num(float(np.median(values)), 3) if len(values) else "-"
