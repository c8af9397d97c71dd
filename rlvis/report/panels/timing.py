"""Where the time goes, and what memory it takes."""

from __future__ import annotations

import numpy as np

from rlvis.report import plots
from rlvis.report.folder import RunFolder
from rlvis.report.panels.base import Context, Panel, Table, below, drawing, named, num

STAGES = ("rollout", "score", "weigh", "build", "update")
ORDER = ("rollout", "score", "weigh", "build", "map", "update", "step", "eval")


def figures(context: Context) -> Panel:
    """Time per stage stacked, throughput, memory."""
    run = context.run
    stages = named(run, {stage: f"time/{stage}" for stage in STAGES})
    speed = {"samples a second": run.series("throughput/samples_per_second")}
    drawings = [
        drawing(
            "Time per stage",
            lambda: plots.stacked("time", stages, ylabel="seconds a step"),
            "Wall time of the five stages of a step.",
        ),
        drawing(
            "Throughput",
            lambda: plots.lines("throughput", speed, ylabel="samples / s"),
            "Samples of a step over all processes, by the time of the whole step.",
        ),
    ]
    memory = named(run, below(run.keys, "memory/"))
    memory = {name: series for name, series in memory.items() if series.value.any()}
    if memory:
        drawings.append(
            drawing(
                "Memory",
                lambda: plots.lines("memory", memory, ylabel="GiB"),
                "Largest memory allocated on a GPU: in each stage on rank 0, and on any (max_gib).",
            )
        )
    note = "" if memory else "Memory is measured on GPUs only; this run had none."
    return Panel("", "figures", drawings, note)


def table(context: Context) -> Panel | None:
    """Median, total and share of each stage; None for a run without times."""
    rows = stage_rows(context.run)
    if not rows:
        return None
    header = ("stage", "median, s", "total, s", "share of the steps")
    note = "The first step also warms up; medians leave that aside. Evaluation is outside of the steps."
    return Panel("Time in sum", "table", Table(header, rows, frozenset({1, 2, 3})), note)


def stage_rows(run: RunFolder) -> list[tuple[str, ...]]:
    """(stage, median, total, share of all steps) of every time that was written."""
    whole = float(run.series("time/step").finite.value.sum())
    rows, order = [], {}
    for name, key in below(run.keys, "time/").items():
        values = run.series(key).finite.value
        if len(values):
            share = f"{values.sum() / whole:.1%}" if whole and name != "eval" else "-"
            shown = "map, a part of build" if name == "map" else name
            order[shown] = ORDER.index(name) if name in ORDER else len(ORDER)
            rows.append((shown, num(float(np.median(values)), 3), num(float(values.sum()), 4), share))
    return sorted(rows, key=lambda row: order[row[0]])
