"""Curves: the numbers that are drawn, and what becomes of series that are long, empty, broken or all zero."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rlvis.observe.history import Series
from rlvis.report import plots


def series(*values: float, start: int = 1) -> Series:
    return Series(np.arange(start, start + len(values)), np.array(values, dtype=np.float64))


def drawn(svg: str, color: str) -> list[tuple[float, float]]:
    """The points of the first line of that colour, in SVG units."""
    for element in ElementTree.fromstring(svg).iter():
        if f"stroke: {color}" in element.get("style", "") and "L" in element.get("d", ""):
            return [
                (float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", element.get("d", ""))
            ]
    raise AssertionError(f"no line in {color}")


def test_points_are_where_the_numbers_are() -> None:
    points = drawn(plots.lines("a", {"x": series(0.0, 1.0, 4.0)}), "var(--c1)")
    (x0, y0), (x1, y1), (x2, y2) = points[:3]
    assert x2 - x1 == pytest.approx(x1 - x0, rel=1e-3)
    assert y0 - y2 == pytest.approx(4 * (y0 - y1), rel=1e-3)  # SVG's y grows downwards


def test_logarithmic_steps_are_equal_and_zero_is_below_them() -> None:
    points = drawn(plots.lines("a", {"x": series(1e-4, 1e-3, 1e-2, 0.0)}, log=True), "var(--c1)")
    y = [point[1] for point in points[:4]]
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], rel=1e-3)
    assert y[3] > y[0]


@pytest.mark.parametrize("values", [(0.0, 0.0), (-1.0, 2.0), (3.0,), (2e-4, 3e-4), (0.0, 5e-324)])
def test_logarithm_of_anything(values: tuple[float, ...]) -> None:
    drawn = ElementTree.fromstring(plots.lines("a", {"x": series(*values)}, log=True))
    assert drawn.tag.endswith("svg")


def test_nothing_to_draw_is_an_empty_text() -> None:
    empty, broken = series(), series(np.nan, np.inf)
    for nothing in (empty, broken):
        assert plots.lines("a", {"x": nothing}) == ""
        assert plots.band("a", nothing, series(1.0), {}) == ""
        assert plots.stacked("a", {"x": nothing}) == ""


def test_long_series_are_averaged_in_bins() -> None:
    values = np.arange(5000.0)
    thin = plots.binned(Series(np.arange(5000), values), points=500)
    assert len(thin) == 500
    assert thin.value[0] == pytest.approx(4.5)
    assert thin.value.mean() == pytest.approx(values.mean())
    assert (np.diff(thin.step) > 0).all()
    same = series(1.0, 2.0)
    assert plots.binned(same) is same


def test_stack_fills_missing_steps_with_zero_and_shows_one_step() -> None:
    both = {"a": series(1.0, 1.0, 1.0), "b": Series(np.array([3]), np.array([2.0]))}
    ElementTree.fromstring(plots.stacked("t", both))
    one = plots.stacked("t", {"a": series(1.0), "b": series(2.0)})
    assert one.count("fill: var(--c1)") >= 1


def test_names_with_markup_and_dollars() -> None:
    svg = plots.lines("a", {"$x^{": series(1.0, 2.0), "<b>&": series(2.0, 1.0)})
    assert "$x^{" in "".join(ElementTree.fromstring(svg).itertext())
    assert "<b>" not in svg


def test_the_same_run_gives_the_same_bytes() -> None:
    assert plots.lines("a", {"x": series(1.0, 2.0)}) == plots.lines("a", {"x": series(1.0, 2.0)})
