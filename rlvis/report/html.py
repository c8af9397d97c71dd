"""One self-contained report.html from a run folder: no network request, light and dark, readable on a phone.

All text is escaped by jinja2; only the SVG that `plots` made is trusted. A content security policy in the
page forbids every request, so a mistake here cannot turn into one. A panel that fails says so in its place,
and a page that would be too large is made again with less room for pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvis import writing
from rlvis.report import folder
from rlvis.report.folder import RunFolder
from rlvis.report.judge import judge
from rlvis.report.panels.base import Context, Panel, Tab
from rlvis.report.panels.tabs import TABS

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
LIMIT = 8_000_000  # bytes: what mail and code hosts still show
ROOMS = (1.0, 0.5, 0.2, 0.0)  # shares of the panels' budgets, tried until the page is within LIMIT


@dataclass(frozen=True)
class Page:
    """A page: heading, the lines below it, and tabs (name, title, panels)."""

    heading: str
    lines: list[str]
    tabs: list[tuple[str, str, list[Panel]]]


def write(run_dir: Path, tabs: Sequence[Tab] = TABS, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write RUN/report.html from whatever the run folder holds, and return its path.

    tabs: what the page has, in order. defaults: the configuration of a run that was told nothing, to compare
    this one with. What is missing is said in the page; only a folder that does not exist raises ValueError.
    """
    run = folder.read(Path(run_dir))
    judged = judge(run)

    def page(room: float) -> str:
        return render(Page(run.name, _lines(run), fill(tabs, Context(run, judged, defaults, room))))

    return save(fit(page), run.path / "report.html")


def fill(tabs: Sequence[Tab], context: Any) -> list[tuple[str, str, list[Panel]]]:
    """The panels of each tab; a tab without any is left out."""
    shown = []
    for tab in tabs:
        panels = [panel for title, make in tab.panels if (panel := _panel(title, make, context)) is not None]
        if panels:
            shown.append((tab.name, tab.title, panels))
    return shown


def fit(page: Callable[[float], str]) -> str:
    """The page with as much room for pictures as LIMIT allows."""
    text = ""
    for room in ROOMS:
        text = page(room)
        size = len(text.encode())
        if size <= LIMIT:
            return text
    log.warning("the page has %.1f MB, more than the %.0f MB it should have", size / 1e6, LIMIT / 1e6)
    return text


def render(page: Page) -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page)


def save(text: str, path: Path) -> Path:
    """Write a page aside and rename it; returns its path."""
    return writing.text(path, text, sync=False)


def _panel(title: str, make: Callable[[Any], Panel | None], context: Any) -> Panel | None:
    try:
        return make(context)
    except Exception as error:  # whatever a broken run left, the other panels are worth having
        log.exception("the panel %r of the report failed", title)
        return Panel(title, "failed", f"{type(error).__name__}: {error}"[:500])


def _lines(run: RunFolder) -> list[str]:
    """Folder, time, commit, machine: what the manifest knows."""
    manifest = run.manifest
    git, hardware = folder.section(manifest, "git"), folder.section(manifest, "hardware")
    started = str(manifest.get("started") or "").replace("T", " ").replace("+00:00", " UTC")
    parts = [
        run.path.resolve().name,
        f"started {started}" if started else "",
        f"commit {str(git['commit'])[:12]}" + (" with changes" if git.get("dirty") else "")
        if git.get("commit")
        else "",
        str(hardware.get("gpu") or hardware.get("cpu") or ""),
        f"{hardware['processes']} processes" if hardware.get("processes", 1) != 1 else "",
        f"seed {manifest['seed']}" if "seed" in manifest else "",
    ]
    return [part for part in parts if part]
