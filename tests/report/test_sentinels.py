"""The report's section on the samples themselves: curves with thresholds, alarms, the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvis.findings import Finding, Severity
from rlvis.observe import alarms
from rlvis.report import autopsy, html
from tests.report.making import EVIL, Page, folder, row

pytestmark = pytest.mark.usefixtures("quick_figures")


def hacked(run: Path) -> Path:
    lines = []
    for step in range(1, 16):
        more = {"sentinel/edge_density": 0.1 if step < 12 else 0.01, "sentinel/alarms": float(step == 14)}
        if step > 10:
            more["sentinel/edge_density/deviation"] = -0.5 if step < 12 else -30.0
        lines.append(json.dumps(row(step, **more)) + "\n")
    (run / "metrics.jsonl").write_text("".join(lines))
    return run


def alarm_of(
    statistic: str, step: int, value: float, usual: float, deviation: float, *, what: str, why: str
) -> Finding:
    numbers = {"value": value, "usual": usual, "deviation": deviation, "since": step - 2, "threshold": 6.0}
    return Finding(name=statistic, severity=Severity.warning, step=step, numbers=numbers, what=what, why=why)


def test_curves_alarms_and_verdict(tmp_path: Path) -> None:
    run = hacked(folder(tmp_path, 15))
    alarm = alarm_of("edge_density", 14, 0.01, 0.1, -30.0, what="edge density is 0.01", why=f"blur {EVIL}")
    alarms.append(run, [alarm], "warn", "the run goes on as it was", "Look at the samples")
    page = Page(html.write(run).read_text(encoding="utf-8"))
    assert "Samples themselves" in page.text
    assert "Deviation of the samples" in page.text
    assert "Alarms" in page.text
    assert "the run goes on as it was" in page.text
    assert "edge density is 0.01 of the pixels and was 0.1 in the first 10 steps" in page.text  # the verdict
    assert not [attrs for attrs in page.all("img") if "evil" in str(attrs.get("src"))]
    result = autopsy.examine(run)
    assert result is not None
    assert [s.name for s in result.symptoms] == ["pictures-unlike"]
    assert "reward hacking" in [cause.what for cause in result.causes]
    assert result.first_bad == 14


def test_a_run_without_sentinels_has_no_section(tmp_path: Path) -> None:
    page = Page(html.write(folder(tmp_path, 3)).read_text(encoding="utf-8"))
    assert "Samples themselves" not in page.text
    assert "Alarms" not in page.text


def test_alarms_are_read_and_dropped_line_by_line(tmp_path: Path) -> None:
    for step in (5, 9):
        alarm = alarm_of("flicker", step, 0.1, float("inf"), 9.0, what="a", why="b")
        alarms.append(tmp_path, [alarm], "stop", "c", "d")
    with (tmp_path / alarms.NAME).open("a") as file:
        file.write('{"step": "x", "statistic": "y"}\n{"step": 12')
    lines = alarms.read(tmp_path)
    assert [line["step"] for line in lines] == [5, 9]
    assert lines[0]["usual"] == "Infinity"
    assert list(lines[0]) == [
        *("step", "statistic", "value", "usual", "deviation", "since", "threshold"),
        *("what", "why", "action", "done", "type"),
    ]
    (tmp_path / alarms.NAME).write_text("".join((tmp_path / alarms.NAME).read_text().splitlines(True)[:2]))
    alarms.resume(tmp_path, 9)
    assert [line["step"] for line in alarms.read(tmp_path)] == [5]
    alarms.resume(tmp_path / "nothing", 1)
