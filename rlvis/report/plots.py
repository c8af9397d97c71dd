"""The kinds of charts: lines with limits, a mean with a band, ranges, stacked areas; each returns an SVG
element, or "" where there is nothing to draw.

Long series are averaged into bins to keep the page small. Beyond six curves the line style tells them apart,
not colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlvis.observe.history import Series
from rlvis.report.svg import COLORS, INK, SIZE, render

DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.2, 1.2)))  # the second and third round of the colours
MOST = len(COLORS) * len(DASHES)  # curves that can be told apart
POINTS = 500  # drawn points of a curve; more are averaged into bins
SHARES = (-0.04, 1.04)  # ends of an axis of shares, clear of lines at 0 and 1
NEAR = 0.6  # a limit is drawn if it widens a linear axis by at most this share, and a log axis by 30 times


@dataclass(frozen=True)
class Spread:
    """A curve with a range around it at each of its steps: middle, low and high [n]."""

    middle: Series
    low: np.ndarray
    high: np.ndarray


def lines(
    name: str,
    curves: Mapping[str, Series],
    *,
    ylabel: str = "",
    log: bool = False,
    limits: Sequence[float] = (),
    share: bool = False,
) -> str:
    """Curves by label as an SVG element, without the values that are not finite; at most MOST of them.

    log: a logarithmic axis if no value is negative; where there are zeros it is linear below the smallest
    power of ten, so that zero is shown as zero. limits: levels drawn as dashed lines where they are near the
    values. share: the axis goes from 0 to 1. Returns "" when there is nothing to draw.
    """
    shown = {label: series.finite for label, series in curves.items() if len(series.finite)}
    shown = dict(list(shown.items())[:MOST])
    positive = [float(s.value[s.value > 0].min()) for s in shown.values() if (s.value > 0).any()]
    logarithmic = log and bool(positive) and all((s.value >= 0).all() for s in shown.values())

    def draw(axes: Any) -> None:
        for i, (label, series) in enumerate(shown.items()):
            thin = binned(series)
            axes.plot(thin.step, thin.value, label=label, **_style(i), **_marker(thin))
        if logarithmic:
            _log_axis(axes, min(positive), any((s.value == 0).any() for s in shown.values()))
        elif all((s.value == 0).all() for s in shown.values()):  # not +- 0.05 around nothing
            top = max([limit for limit in limits if limit > 0], default=1.0)
            axes.set_ylim(-0.04 * top, 1.04 * top)
        for limit in near(limits, list(shown.values()), log=logarithmic):
            axes.axhline(limit, color=INK, linewidth=1.0, linestyle=(0, (2, 2)), alpha=0.75)
        if share:
            axes.set_ylim(*SHARES)
        if len(shown) > 1:
            _legend(axes)
        axes.set_ylabel(ylabel)

    return render(name, draw, _size(len(shown))) if shown else ""


def near(limits: Sequence[float], curves: Sequence[Series], *, log: bool = False) -> list[float]:
    """Those of `limits` that can be drawn without flattening the curves."""
    values = np.concatenate([series.finite.value for series in curves]) if curves else np.zeros(0)
    if not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    if log:
        least = float(values[values > 0].min())
        return [limit for limit in limits if least / 30 <= limit <= 30 * high]
    room = NEAR * max(high - low, 0.2 * abs(high))
    return [limit for limit in limits if low - room <= limit <= high + room]


def spreads(
    name: str,
    curves: Mapping[str, Spread],
    *,
    ylabel: str = "",
    bars: bool = False,
    log: bool = False,
    legend: bool = True,
    share: bool = False,
) -> str:
    """Curves with their ranges as an SVG element ("" if empty): bands, or with `bars` a bar at each step.

    An empty curve keeps its colour free, so that figures of the same arms agree. log: a logarithmic axis, if
    all values are positive. share: the axis goes from 0 to 1.
    """
    shown = {
        label: (i, s) for i, (label, s) in enumerate(curves.items()) if len(s.middle.finite) and i < MOST
    }
    values = np.concatenate([np.zeros(0), *(s.middle.finite.value for _, s in shown.values())])

    def draw(axes: Any) -> None:
        for label, (i, spread) in shown.items():
            known = np.isfinite(spread.middle.value)
            middle = binned(spread.middle.finite)
            sides = (Series(spread.middle.step[known], side[known]) for side in (spread.low, spread.high))
            low, high = (binned(side).value for side in sides)
            style = _style(i)
            if bars or len(middle) == 1:  # a band of one step is invisible
                reach = np.nan_to_num([middle.value - low, high - middle.value]).clip(min=0)
                drawn = {"fmt": "none", "alpha": 0.6, "capsize": 2.5, "elinewidth": 1.0}
                axes.errorbar(middle.step, middle.value, yerr=reach, ecolor=style["color"], **drawn)
            else:
                axes.fill_between(middle.step, low, high, color=style["color"], alpha=0.16, linewidth=0)
            axes.plot(middle.step, middle.value, label=label, **style, **_marker(middle))
        if log and (values > 0).all():
            _log_axis(axes, float(values.min()), False)
        elif share or not values.any():
            axes.set_ylim(*SHARES)
        if legend and len(shown) > 1:
            _legend(axes)
        axes.set_ylabel(ylabel)

    return render(name, draw, _size(len(shown)) if legend else SIZE) if shown else ""


def band(name: str, mean: Series, spread: Series, others: Mapping[str, Series], *, ylabel: str = "") -> str:
    """A mean with a band of +- spread where it is known, and further thin curves by label, as an SVG element
    ("" if empty).
    """
    middle = mean.finite
    if not len(middle):
        return ""
    others = dict(list(others.items())[: MOST - 1])
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
            axes.plot(
                thin.step, thin.value, label=label, **_style(1 + i) | {"linewidth": 1.0}, **_marker(thin)
            )
        _legend(axes)
        axes.set_ylabel(ylabel)

    return render(name, draw, _size(1 + len(others)))


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


def _style(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th curve."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % len(DASHES)]}


def _size(curves: int) -> tuple[float, float]:
    """Higher by the rows of a long legend."""
    return SIZE[0], SIZE[1] + 0.19 * max(0, (curves - 1) // 3 - 1)


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
