"""Curves as inline SVG that follow the page: text and axes take its colour, lines its palette, in light and
dark.

matplotlib draws with stand-in colours, which are then replaced by CSS (currentColor and var(--c1) ..). All
ids get the figure's name as prefix, since several figures live in one page. Long series are averaged into
bins to keep the page small.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlvis.report.folder import Series

INK = "#010203"  # replaced by currentColor
COLORS = tuple(f"#0000a{i}" for i in range(1, 7))  # replaced by var(--c1) .. var(--c6)
POINTS = 500  # drawn points of a curve; more are averaged into bins
SIZE = (4.8, 2.5)  # inches of 72 CSS points: about a phone's width, so the text is never scaled down much

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of rewards may hold a $
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}


def lines(name: str, curves: Mapping[str, Series], *, ylabel: str = "", log: bool = False) -> str:
    """Curves by label as an SVG element, without the values that are not finite.

    log: a logarithmic axis if no value is negative; where there are zeros it is linear below the smallest
    power of ten, so that zero is shown as zero. Returns "" when there is nothing to draw.
    """
    shown = {label: series.finite for label, series in curves.items() if len(series.finite)}
    positive = [float(s.value[s.value > 0].min()) for s in shown.values() if (s.value > 0).any()]
    logarithmic = log and bool(positive) and all((s.value >= 0).all() for s in shown.values())

    def draw(axes: Any) -> None:
        for i, (label, series) in enumerate(shown.items()):
            thin = binned(series)
            axes.plot(thin.step, thin.value, color=COLORS[i % len(COLORS)], label=label, **_marker(thin))
        if logarithmic:
            _log_axis(axes, min(positive), any((s.value == 0).any() for s in shown.values()))
        if len(shown) > 1:
            _legend(axes)
        axes.set_ylabel(ylabel)

    return render(name, draw) if shown else ""


def band(name: str, mean: Series, spread: Series, others: Mapping[str, Series], *, ylabel: str = "") -> str:
    """A mean with a band of +- spread where it is known, and further thin curves by label, as an SVG element
    ("" if empty).
    """
    middle = mean.finite
    if not len(middle):
        return ""
    width = dict(zip(spread.finite.step.tolist(), spread.finite.value.tolist(), strict=True))
    half = Series(middle.step, np.array([width.get(step, 0.0) for step in middle.step.tolist()]))

    def draw(axes: Any) -> None:
        centre, around = binned(middle), binned(half)
        low, high = centre.value - around.value, centre.value + around.value
        axes.fill_between(centre.step, low, high, color=COLORS[0], alpha=0.18, linewidth=0)
        if len(centre) == 1:
            axes.errorbar(centre.step, centre.value, yerr=around.value, color=COLORS[0], alpha=0.5)
        axes.plot(
            centre.step, centre.value, color=COLORS[0], label="mean, +- std over samples", **_marker(centre)
        )
        for i, (label, series) in enumerate(others.items()):
            thin = binned(series.finite)
            color = COLORS[1 + i % (len(COLORS) - 1)]
            axes.plot(thin.step, thin.value, color=color, linewidth=1.0, label=label, **_marker(thin))
        _legend(axes)
        axes.set_ylabel(ylabel)

    return render(name, draw)


def stacked(name: str, parts: Mapping[str, Series], *, ylabel: str = "") -> str:
    """Non-negative series on top of each other as an SVG element ("" if empty); a step that lacks a part
    counts it as 0.
    """
    shown = {label: series.finite for label, series in parts.items() if len(series.finite)}
    if not shown:
        return ""
    steps = np.unique(np.concatenate([series.step for series in shown.values()]))

    def filled(series: Series) -> np.ndarray:
        values = np.zeros(len(steps))
        values[np.searchsorted(steps, series.step)] = series.value
        return binned(Series(steps, values)).value

    def draw(axes: Any) -> None:
        layers = [filled(series) for series in shown.values()]
        at = binned(Series(steps, np.zeros(len(steps)))).step
        if len(at) == 1:  # an area of one point is invisible
            bottom = 0.0
            for i, (label, layer) in enumerate(zip(shown, layers, strict=True)):
                axes.bar(at, layer, bottom=bottom, width=0.4, color=COLORS[i % len(COLORS)], label=label)
                bottom += float(layer[0])
            axes.set_xlim(at[0] - 2, at[0] + 2)
        else:
            colors = [COLORS[i % len(COLORS)] for i in range(len(layers))]
            axes.stackplot(at, layers, labels=list(shown), colors=colors, alpha=0.75, linewidth=0)
        axes.set_ylim(bottom=0)
        _legend(axes)
        axes.set_ylabel(ylabel)

    return render(name, draw)


def binned(series: Series, points: int = POINTS) -> Series:
    """At most `points` points: equal bins of consecutive steps, each shown as its mean at its mean step."""
    if len(series) <= points:
        return series
    edges = np.linspace(0, len(series), points + 1).astype(int)
    count = np.diff(edges)
    step = np.add.reduceat(series.step, edges[:-1]) / count
    return Series(np.round(step).astype(np.int64), np.add.reduceat(series.value, edges[:-1]) / count)


def render(name: str, draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """Draw on fresh axes and return the figure as an SVG element without width, height, metadata or outside
    addresses.

    name: letters, digits and dashes; the prefix of every id inside.
    """
    assert re.fullmatch(r"[a-z][a-z0-9-]*", name), name
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    out = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        draw(axes)
        if not axes.dataLim.width:  # one step: whole numbers beside it instead of fractions of a step
            axes.set_xlim(axes.dataLim.x0 - 2, axes.dataLim.x0 + 2)
        axes.set_xlabel("training step")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """matplotlib's SVG document as an element of our page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body).replace(
        "xlink:href", "href"
    )  # HTML needs no name spaces
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)  # the page's own font
    body = body.replace(INK, "currentColor")
    for i, color in enumerate(COLORS, 1):
        body = body.replace(color, f"var(--c{i})")
    return body.replace("<svg", '<svg role="img"', 1)


def _log_axis(axes: Any, smallest: float, zeros: bool) -> None:
    """A logarithmic y axis with plain numbers at its ticks (matplotlib's own are TeX), linear below
    10^floor(log10 smallest).
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if zeros:
        linear = max(10.0 ** np.floor(np.log10(smallest)), 1e-12)
        axes.set_yscale("symlog", linthresh=linear)
        axes.set_ylim(bottom=-0.15 * linear)  # so that a line at zero stands clear of the axis
    else:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / low < 30:  # too few powers of ten to read a value from
            axes.yaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-") if value else "0")
    )
    axes.yaxis.set_minor_formatter(NullFormatter())


def _marker(series: Series) -> dict[str, Any]:
    """Points are marked where they are few, and where a line of one point would be invisible."""
    return {"marker": "o", "markersize": 3.5} if len(series) <= 12 else {}


def _legend(axes: Any) -> None:
    """Above the axes, in as many columns as the longest label (cut at 30 letters) leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    short = [label if len(label) <= 30 else label[:27] + "..." for label in labels]
    columns = max(1, min(len(short), 3, 60 // (max(map(len, short)) + 5)))
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "handlelength": 1.4}
    axes.legend(handles, short, ncols=columns, **place)
