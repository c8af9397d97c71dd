"""What the sentinels saw of the samples: deviations from the first steps with the thresholds, the statistics
themselves, and every alarm with what was done.
"""

from __future__ import annotations

from rlvis.observe import alarms
from rlvis.observe.health import sentinels as rules
from rlvis.observe.sentinel_table import KINDS, deviation_key
from rlvis.observe.step_statistics import PREFIX
from rlvis.report import plots
from rlvis.report.panels.base import Context, Drawing, Panel, Table, drawing, num, short


def figures(context: Context) -> Panel | None:
    """Deviations with thresholds, and each statistic; None for a run without sentinels."""
    run = context.run
    known = [name for name in KINDS if PREFIX + name in run.keys]
    compared = rules.names_with_deviations(run)
    if not known and not compared:
        return None
    config = rules.settings(run)
    drawings: list[Drawing] = []
    if compared:
        curves = {_title(name): run.series(deviation_key(name)) for name in compared}
        drawings.append(
            drawing(
                "Deviation of the samples",
                lambda: plots.lines(
                    "sentinel-deviations",
                    curves,
                    ylabel="deviations",
                    limits=(-config.threshold, config.threshold),
                ),
                f"Distance from the first {config.baseline} steps, in their robust deviations. Dashed: the "
                f"threshold, an alarm after {config.patience} steps beyond it.",
            )
        )
    for name in known:
        drawings.append(_statistic(context, name))
    note = "" if compared else f"The baseline takes {config.baseline} steps, so nothing was compared yet."
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
    lines = alarms.read(context.run.path)
    if not lines:
        return None
    rows = []
    for row in lines:
        numbers = [row.get(key) for key in ("value", "usual", "deviation")]
        shown = [num(value) if isinstance(value, int | float) else "-" for value in numbers]
        texts = [short(str(row.get(key) or ""), 300) for key in ("why", "done")]
        rows.append((str(row["step"]), row["statistic"], *shown, *texts))
    header = ("step", "statistic", "value", "usual", "deviations", "what it looks like", "done")
    return Panel("Alarms", "table", Table(header, rows, frozenset({2, 3, 4}), frozenset({5, 6})))
