"""The page of several runs, or of a folder of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlvis.report import folder, html
from rlvis.report.compare import names, outcome, panels, results, samples, verdicts
from rlvis.report.compare.arms import Member, arms, base_of
from rlvis.report.compare.measured import Several
from rlvis.report.judge import judge
from rlvis.report.panels.base import Tab

TABS: tuple[Tab, ...] = (
    Tab(
        "overview",
        "Overview",
        (
            ("Outcome", outcome.outcome),
            ("Legend", panels.legend),
            ("First curves", panels.first_curves),
            ("Verdicts", verdicts.of_arms),
            ("Runs", verdicts.of_runs),
        ),
    ),
    Tab("held-out", "Held-out", (("Held-out prompts", results.held_out),)),
    Tab("samples", "Samples", (("Samples", samples.samples),)),
    Tab("curves", "Curves", (("Legend", panels.legend), ("Curves", panels.curves))),
    Tab("time", "Time", (("To a threshold", results.threshold), ("Times", panels.times))),
    Tab("config", "Config", (("Differences", panels.config),)),
)


def write(
    runs: Sequence[Path], to: Path | None = None, base: str | None = None, threshold: float | None = None
) -> Path:
    """Write the comparison of run folders and return its path.

    to: the page. None: report.html in the folder that holds these runs and no others, else comparison.html
    in the current folder. base, threshold: as in `Several`. Raises ValueError for fewer than two runs, a `to`
    that cannot be, or a base that is no arm.
    """
    paths = list({path.resolve(): path for path in map(Path, runs)}.values())
    if len(paths) < 2:
        raise ValueError("report: a comparison takes two different runs or more; type rlvis report RUN RUN")
    page = target(paths) if to is None else to
    if page.is_dir() or not page.resolve().parent.is_dir():
        raise ValueError(f"report: to={page} is a folder or lies in none; type to=FILE.html")
    read = [folder.read(path) for path in paths]
    members = [Member(run, judge(run), name) for run, name in zip(read, names.folders(paths), strict=True)]
    found = arms(members)
    several = Several(found, page, base_of(found, base), threshold)
    parent = Path(*_common(paths)).name
    groups = f"{len(found)} arm{'s' if len(found) > 1 else ''}"
    count = f"{len(members)} runs in {groups}; an arm is what differs only in its seed"

    def text(room: float) -> str:
        heading = f"{parent}: {len(members)} runs compared" if parent else f"{len(members)} runs compared"
        return html.render(html.Page(heading, [count], html.fill(TABS, replace(several, room=room))))

    return html.save(html.fit(text), page)


def target(runs: Sequence[Path]) -> Path:
    """Where the comparison goes when nobody says."""
    parents = {path.resolve().parent for path in runs}
    if len(parents) == 1:
        parent = parents.pop()
        if not folder.is_run(parent) and set(folder.runs_below(parent)) == {path.resolve() for path in runs}:
            return runs[0].parent / "report.html"
    return Path("comparison.html")


def _common(paths: Sequence[Path]) -> list[str]:
    """The parts that all resolved parents begin with."""
    common = []
    for parts in zip(*(path.resolve().parent.parts for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
