"""What the sentinels saw of the samples: deviations from the first steps with the thresholds, the statistics
themselves, and every alarm with what was done.
"""

from __future__ import annotations

from rlvis.observe import alarms, health_sentinels
from rlvis.observe.sentinels import KINDS
from rlvis.observe.step_statistics import PREFIX
from rlvis.observe.symptom import Seen
from rlvis.report import plots
from rlvis.report.panels.base import Context, Drawing, Panel, Table, drawing, num, short


def figures(context: Context) -> Panel | None:
    """Deviations with thresholds, and each statistic; None for a run without sentinels."""
    run = context.run
    known = [name for name in KINDS if PREFIX + name in run.keys]
    seen = Seen(run.rows, run.config)
    judged = health_sentinels.judged(seen)
    if not known and not judged:
        return None
    told = health_sentinels.settings(seen)
    drawings: list[Drawing] = []
    if judged:
        curves = {_title(name): run.series(health_sentinels.key_of(name)) for name in judged}
        drawings.append(
            drawing(
                "Deviation of the samples",
                lambda: plots.lines(
                    "sentinel-deviations",
                    curves,
                    ylabel="deviations",
                    limits=(-told.threshold, told.threshold),
                ),
                f"Distance from the first {told.baseline} steps, in their robust deviations. Dashed: the "
                f"threshold, an alarm after {told.patience} steps beyond it.",
            )
        )
    for name in known:
        drawings.append(_statistic(context, name))
    note = "" if judged else f"The baseline takes {told.baseline} steps, so nothing was compared yet."
    return Panel("Samples themselves", "figures", drawings, note)


def _statistic(context: Context, name: str) -> Drawing:
    kind, series, label = KINDS[name], context.run.series(PREFIX + name), name.replace("_", "-")
    sides = "; ".join(text for text in (kind.more, kind.less) if text)
    return drawing(
        _title(name),
        lambda: plots.lines(f"sentinel-{label}", {name: series}, ylabel=kind.unit),
        f"Beyond the threshold it would mean {sides}.",
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def table(context: Context) -> Panel | None:
    """The alarms; None where there was none."""
    found = alarms.read(context.run.path)
    if not found:
        return None
    rows = []
    for row in found:
        numbers = [row.get(key) for key in ("value", "usual", "deviation")]
        shown = [num(value) if isinstance(value, int | float) else "-" for value in numbers]
        texts = [short(str(row.get(key) or ""), 300) for key in ("why", "done")]
        rows.append((str(row["step"]), row["statistic"], *shown, *texts))
    header = ("step", "statistic", "value", "usual", "deviations", "what it looks like", "done")
    return Panel("Alarms", "table", Table(header, rows, frozenset({2, 3, 4}), frozenset({5, 6})))
