"""What a page is made of: tabs of panels, each panel plain values that a template of the same kind shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from rlvis.observe.history import Series
from rlvis.report.folder import RunFolder
from rlvis.report.judge import Judgement

log = logging.getLogger(__name__)

TEXT = 2000  # characters of a prompt or an error in a page
# Signs that tell states apart without their colours.
SIGNS = {
    "healthy": "\u2713",
    "ok": "\u2713",
    "outside": "\u25cb",
    "suspicious": "\u25b2",
    "broken": "\u2715",
    "unknown": "?",
}


@dataclass(frozen=True)
class Context:
    """What panels read. defaults: the configuration of a run that was told nothing (None: not known).
    room: share of their budgets that panels may spend on pictures.
    """

    run: RunFolder
    judgement: Judgement
    defaults: Mapping[str, Any] | None = None
    room: float = 1.0


@dataclass(frozen=True)
class Panel:
    """A section of a tab. kind: the template; data: what it shows; note: a sentence, mostly about what is
    missing.
    """

    title: str
    kind: str
    data: Any = None
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Tab:
    """A tab of the page by its name in the address, with its panels (their titles say what failed to be)."""

    name: str
    title: str
    panels: tuple[tuple[str, Callable[[Any], Panel | None]], ...]


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption; an empty svg is shown as `empty`."""

    title: str
    svg: Markup
    caption: str
    empty: str = "Not in metrics.jsonl."


@dataclass(frozen=True)
class Table:
    """Rows of text or markup; the first cell of a row names it. numbers: columns that are set right. stacked:
    on a phone each row is a list of its cells, so that no column is out of sight.
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str | Markup, ...]]
    numbers: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()  # columns of sentences
    stacked: bool = False


def drawing(title: str, draw: Callable[[], str], caption: str = "", empty: str = "") -> Drawing:
    """A figure; one that cannot be drawn says so in its place instead of costing the panel."""
    try:
        svg = draw()
    except Exception as error:
        log.exception("the figure %r could not be drawn", title)
        return Drawing(title, Markup(""), "", f"This figure could not be drawn: {type(error).__name__}.")
    label = Markup('<svg aria-label="{}"').format(title)
    return Drawing(title, Markup(svg.replace("<svg", label, 1)), caption, empty or "Not in metrics.jsonl.")


def state(kind: str, words: str) -> Markup:
    """A state with its sign, in its colour."""
    html = '<span class="state {}"><span class="sign" aria-hidden="true">{}</span> {}</span>'
    return Markup(html).format(kind, SIGNS[kind], words)


def lost(*series: Series) -> str:
    """A sentence on the steps that a curve leaves out because they are not finite."""
    steps = {int(step) for s in series for step in s.step[~np.isfinite(s.value)]}
    return f" Steps left out because a value was not finite: {len(steps)}." if steps else ""


def short(text: str, most: int = 160) -> str:
    """At most `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def num(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def code(text: str) -> Markup:
    """A word as it is typed."""
    return Markup("<code>{}</code>").format(escape(text))


def named(run: RunFolder, keys: Mapping[str, str]) -> dict[str, Series]:
    """Label -> the series of its metric."""
    return {label: run.series(key) for label, key in keys.items()}


def below(keys: Sequence[str], prefix: str) -> dict[str, str]:
    """Those keys that begin with prefix, by what follows it."""
    return {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}


def spans(series: Series, factor: float) -> bool:
    """Whether the values are positive and wider apart than that factor."""
    known = series.finite.value
    return bool(len(known)) and known.min() > 0 and bool(known.max() > factor * known.min())
