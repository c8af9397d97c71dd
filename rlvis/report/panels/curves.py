"""Curves of what is trained on: the reward, its terms, its spread inside groups, the advantages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlvis.observe import metric_table
from rlvis.observe.history import Series
from rlvis.report import plots
from rlvis.report.folder import RunFolder
from rlvis.report.panels.base import Context, Drawing, Panel, Table, drawing, lost, named, num, short

TERMS = 8  # reward terms drawn at once


def reward(run: RunFolder, name: str = "reward") -> Drawing:
    """The mean reward with a band of its spread over samples."""
    mean, spread = run.series("reward/mean"), run.series("reward/std")
    return drawing(
        "Reward",
        lambda: plots.band(name, mean, spread, {}, ylabel="reward"),
        "Mean over the valid samples of a step; band: +- standard deviation over samples." + lost(mean),
    )


def curves(context: Context) -> Panel:
    """Reward, its terms, spread inside groups, advantages."""
    run = context.run
    drawings = [reward(run)]
    terms = reward_terms(run)
    if len(terms) > 1:
        drawings.append(_terms(run, terms))
    drawings.append(
        _lines(
            run,
            "Spread of the reward",
            {"inside a group": "group/std_mean", "over all samples": "reward/std"},
            "standard deviation",
            "Inside a prompt's group (mean over prompts) is what GRPO learns from.",
        )
    )
    drawings.append(
        _lines(
            run,
            "Advantages",
            {"mean |A|": "advantage/abs_mean", "max |A|": "advantage/max"},
            "advantage",
            "Over the trained samples, before any map.",
        )
    )
    if len(run.series("advantage/reward_agreement")):
        drawings.append(
            _lines(
                run,
                "Advantage follows reward",
                {"share": "advantage/reward_agreement"},
                "share of samples",
                "Samples whose advantage has the sign of (reward - group mean). 1 for one reward; 0 with "
                "advantage.sign=-1.",
            )
        )
    note = "" if run.rows else "No training step was written, so there are no curves."
    return Panel("", "figures", drawings, note)


def all_metrics(context: Context) -> Panel:
    """Every metric's first, last, lowest and highest value, with its meaning and healthy range."""
    rows: list[tuple[str, ...]] = []
    for key in context.run.keys:
        values = context.run.series(key)
        if not len(values):
            continue
        entry = metric_table.find(key) or metric_table.Key("", "", "")
        known = values.finite.value
        ends = (num(known.min()), num(known.max())) if len(known) else ("-", "-")
        first, last = num(values.value[0]), num(values.value[-1])
        rows.append((key, first, last, *ends, entry.unit, entry.meaning, entry.healthy))
    note = "" if rows else "No metrics were written."
    header = ("metric", "first", "last", "lowest", "highest", "unit", "meaning", "healthy")
    table = Table(header, rows, frozenset({1, 2, 3, 4}), frozenset({6, 7}))
    return Panel("All metrics", "table", table if rows else None, note, folded=True)


def reward_terms(run: RunFolder) -> list[str]:
    """Names of the raw reward terms."""
    return [
        key.split("/")[1]
        for key in run.keys
        if key.startswith("reward/") and key.count("/") == 2 and key.endswith("/mean")
    ]


def _terms(run: RunFolder, names: list[str]) -> Drawing:
    """The terms that moved the most, where there are too many to tell apart."""
    terms = {name: run.series(f"reward/{name}/mean") for name in names}
    caption = "Mean of each raw term over the valid samples of a step."
    if len(terms) > TERMS:
        chosen = sorted(terms, key=lambda name: -_moved(terms[name]))[:TERMS]
        terms = {name: terms[name] for name in names if name in chosen}
        caption += f" Of {len(names)} terms, the {TERMS} that moved the most; all are in the table below."
    caption += lost(*terms.values())
    return drawing(
        "Reward terms",
        lambda: plots.lines("terms", {short(k, 40): v for k, v in terms.items()}, ylabel="raw reward"),
        caption,
    )


def _moved(series: Series) -> float:
    known = series.finite.value
    if len(known) < 2:
        return 0.0
    n = max(1, len(known) // 10)
    return float(abs(np.mean(known[-n:]) - np.mean(known[:n])))


def _lines(run: RunFolder, title: str, keys: Mapping[str, str], ylabel: str, caption: str) -> Drawing:
    shown = named(run, keys)
    name = title.lower().replace(" ", "-")
    return drawing(title, lambda: plots.lines(name, shown, ylabel=ylabel), caption + lost(*shown.values()))
