"""Held-out prompts: accuracy and scores over training with intervals, and the gain prompt by prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rlvis.report import heldout, pictures, plots, wording
from rlvis.report.folder import RunFolder
from rlvis.report.panels.base import (
    TEXT,
    Context,
    Drawing,
    Panel,
    Table,
    below,
    drawing,
    named,
    num,
    short,
)
from rlvis.report.pictures import Shown

NOTE = "Prompts that are not trained on, from fixed noise; every sample is in eval/ of the run folder."
ATTRIBUTES = 12  # curves of one figure
MOST, FIRST = 12, 6  # prompts that became better, and as many worse; on the first screen
BUDGET = 1_000_000  # bytes of base64, for each way
NAMES = {1: "gains", -1: "losses"}
SHARE = "share right"  # of axes that go from 0 to 1


@dataclass(frozen=True)
class Pair:
    """A prompt with its picture before and after, each below what is said of it."""

    text: str
    frames: list[tuple[str, Shown]]

    @property
    def wide(self) -> bool:
        """Whether the two belong below each other."""
        return self.frames[0][1].width > 1.2 * self.frames[0][1].height


def headline(run: RunFolder) -> Drawing | None:
    """The one held-out curve that says most: accuracy, else score, else the first scorer."""
    keys = [key for key in run.keys if key.startswith("eval/")]
    for key in ("eval/accuracy", "eval/score", *keys):
        if key in keys:
            name = key.removeprefix("eval/")
            label = SHARE if key == "eval/accuracy" else name
            return _intervals(run, f"Held-out {name}", {name: key}, label, prefix="first-")
    return None


def evaluation(context: Context) -> Panel | None:
    """Held-out accuracy and scores over training; None for a run without evaluation."""
    run = context.run
    keys = [key for key in run.keys if key.startswith("eval/")]
    if not keys:
        return None
    drawings = []
    if "eval/accuracy" in keys:
        drawings.append(_intervals(run, "Held-out accuracy", {"all": "eval/accuracy"}, SHARE))
        kinds = below(keys, "eval/accuracy/")
        if len(kinds) > 1:
            drawings.append(_curves(run, "Held-out accuracy by kind", kinds, "Of the kinds of prompts."))
        right = below(keys, "eval/right/")
        caption = "Each attribute, over the prompts that ask for it."
        drawings.append(_curves(run, "Held-out attributes", right, caption))
    if "eval/score" in keys:
        drawings.append(_intervals(run, "Held-out score", {"score": "eval/score"}, "score"))
    for name, key in below(keys, "eval/").items():
        if name not in ("score", "accuracy") and "/" not in name:
            drawings.append(_intervals(run, f"Held-out {name}", {name: key}, name))
    return Panel("", "figures", drawings, NOTE)


def gain(context: Context) -> Panel | None:
    """First against last evaluation, prompt by prompt; None where there are not two."""
    evaluations = heldout.read(context.run.path)
    if len(evaluations.entries) < 2:
        return Panel("Gain", "text", "", evaluations.problems[0]) if evaluations.problems else None
    pair = heldout.first_and_last(evaluations)
    if pair is None:
        steps = " or ".join(str(evaluations.entries[i]["step"]) for i in (0, -1))
        return Panel("Gain", "text", "", f"The samples of step {steps} cannot be read.")
    first, last, before, after = pair
    rows: list[tuple[str, ...]] = []
    for name, column in heldout.measures(before).items():
        if column not in after:
            continue
        old, new = heldout.per_prompt([before], column), heldout.per_prompt([after], column)
        compared = heldout.difference([old], [new])
        if not old or not new:
            continue
        means = num(sum(old.values()) / len(old)), num(sum(new.values()) / len(new))
        if compared is None:
            rows.append((name, *means, "other prompts", "-", str(len(new)), "-"))
        else:
            interval = wording.between(compared.bounds)
            count = str(compared.prompts)
            rows.append((name, *means, wording.size(compared), interval, count, compared.doubt or "-"))
    header: tuple[str, ...] = ("measure", f"step {first}", f"step {last}", "difference", "95 %", "prompts")
    if any(row[6] != "-" for row in rows):
        header += ("why no interval",)
    rows = [row[: len(header)] for row in rows]
    note = "Differences prompt by prompt on the same noise; intervals over prompts."
    return Panel("Gain", "table", Table(header, rows, frozenset({1, 2, 3, 4, 5})) if rows else None, note)


def better(context: Context) -> Panel | None:
    """Prompts that gained most by training, before and after; None without pictures of both."""
    return _changed(context, 1, MOST)


def worse(context: Context) -> Panel | None:
    """Prompts that lost most."""
    return _changed(context, -1, MOST)


def first_better(context: Context) -> Panel | None:
    """A few that gained, for the first screen."""
    return _changed(context, 1, FIRST)


def first_worse(context: Context) -> Panel | None:
    """A few that lost, for the first screen."""
    return _changed(context, -1, FIRST)


def _changed(context: Context, sign: int, most: int) -> Panel | None:
    changes = heldout.changes(heldout.read(context.run.path))
    # As it is told: a change that no digit shows is none.
    told = [c for c in changes if sign * c.gain > 0 and f"{c.before:.2f}" != f"{c.after:.2f}"]
    moved = sorted(told, key=lambda c: -sign * c.gain)
    if not moved:
        return None
    share = BUDGET * context.room / (2 * MOST)
    pairs, problems = [], []
    for change in moved[:most]:
        try:
            shown = [pictures.file(path, share) for path in change.pictures]
        except pictures.UNREADABLE as error:
            problems.append(f"The pictures of one cannot be read: {error}.")
            continue
        frames = [
            (f"{when}, {score:.2f}", picture)
            for when, score, picture in zip(
                ("before", "after"), (change.before, change.after), shown, strict=True
            )
            if picture is not None
        ]
        if frames:
            pairs.append(Pair(short(change.prompt, TEXT), frames))
    word = "better" if sign > 0 else "worse"
    note = (
        f"Held-out prompts, their first sample from the same noise; the largest {NAMES[sign]} of its score."
    )
    return Panel(f"{len(moved)} of {len(changes)} became {word}", "pairs", pairs, " ".join([note, *problems]))


def _intervals(run: RunFolder, title: str, keys: Mapping[str, str], ylabel: str, prefix: str = "") -> Drawing:
    """Curves with the intervals that summary.json knows; plain ones where it does not."""
    name = prefix + re.sub(r"\W+", "-", title.lower())
    evaluations = heldout.read(run.path)
    spreads = {label: evaluations.interval(key) for label, key in keys.items()}
    if all(len(spread.middle) for spread in spreads.values()):
        caption = "Bars: Student's 95 % interval over prompts."
        share = ylabel == SHARE
        return drawing(
            title, lambda: plots.spreads(name, spreads, ylabel=ylabel, bars=True, share=share), caption
        )
    curves = named(run, keys)
    caption = "Mean over held-out samples; eval/summary.json has no interval for it."
    return drawing(title, lambda: plots.lines(name, curves, ylabel=ylabel, share=ylabel == SHARE), caption)


def _curves(run: RunFolder, title: str, keys: Mapping[str, str], caption: str) -> Drawing:
    name = re.sub(r"\W+", "-", title.lower())
    if len(keys) > ATTRIBUTES:
        caption += f" The first {ATTRIBUTES} of {len(keys)}; all are in the table of metrics."
    curves = named(run, dict(list(keys.items())[:ATTRIBUTES]))
    return drawing(title, lambda: plots.lines(name, curves, ylabel=SHARE, share=True), caption)
