"""A chart as inline SVG that follows the page: text and axes take its colour, lines its palette, in light
and dark.

matplotlib draws with stand-in colours, which are then replaced by CSS (currentColor and var(--c1) ..). All
ids get the figure's name as prefix, since several figures live in one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

INK = "#010203"  # replaced by currentColor
COLORS = tuple(f"#0000a{i}" for i in range(1, 7))  # replaced by var(--c1) .. var(--c6)
SIZE = (4.8, 2.5)  # inches of 72 CSS points: about a phone's width, so the text is never scaled down much

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of rewards may hold a $
    "font.size": 10.5,
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
    "legend.fontsize": 10,
    "lines.linewidth": 1.6,
}


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
    body = re.sub(r'(?<= d=")[^"]*', _shorter, body)
    body = body.replace(INK, "currentColor")
    for i, color in enumerate(COLORS, 1):
        body = body.replace(color, f"var(--c{i})")
    return body.replace("<svg", '<svg role="img"', 1)


def _shorter(path: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point, on one line."""
    text = re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", path[0])
    return " ".join(text.split())
