"""One self-contained report.html from a run folder: no network request, light and dark, readable on a phone.

All text is escaped by jinja2; only the SVG that `plots` made is trusted. A content security policy in the
page forbids every request, so a mistake here cannot turn into one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rlvis.report import folder
from rlvis.report.folder import RunFolder
from rlvis.report.panels import PANELS, Panel

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
LIMIT = 8_000_000  # bytes: what mail and code hosts still show


def write(run_dir: Path, panels: Sequence[Callable[[RunFolder], Panel | None]] = PANELS) -> Path:
    """Write RUN/report.html from whatever the run folder holds, and return its path.

    panels: functions from a run folder to a panel (or None for nothing), in order of appearance. What is
    missing is said in the page; only a folder that does not exist raises ValueError.
    """
    run = folder.read(Path(run_dir))
    page = render(run, [made for panel in panels if (made := panel(run)) is not None])
    path = run.path / "report.html"
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, path)
    if (size := path.stat().st_size) > LIMIT:
        log.warning("%s has %.1f MB, more than the %.0f MB it should have", path, size / 1e6, LIMIT / 1e6)
    return path


def render(run: RunFolder, panels: Sequence[Panel]) -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(run=run, panels=panels)
