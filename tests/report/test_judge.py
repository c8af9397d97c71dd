"""The verdict: what makes a run suspicious or broken, and what is said of one that is not finished."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from rlvis.report import folder as folders
from rlvis.report import html, judge
from tests.report.making import Page, folder, row, rows

pytestmark = pytest.mark.usefixtures("quick_figures")


def judged(run: Path) -> judge.Judgement:
    return judge.judge(folders.read(run))


def test_healthy_and_finished(tmp_path: Path) -> None:
    judgement = judged(folder(tmp_path, 20))
    assert (judgement.verdict, judgement.finished, judgement.reasons) == ("healthy", True, [])
    assert judgement.progress == "Finished: 20 of 20 steps."


def test_symptoms_make_the_verdict_and_say_what_to_type(tmp_path: Path) -> None:
    run = folder(tmp_path, 20)
    rows(run, [row(step, **{"ratio/max_deviation_first": 0.5}) for step in range(1, 21)])
    judgement = judged(run)
    assert judgement.verdict == "broken"
    assert judgement.reasons[0].name == "ratio-first"
    text = Page(html.write(run).read_text()).text
    for part in (
        "Broken",
        judgement.reasons[0].what,
        judgement.reasons[0].type,
        "Likely cause",
        "broken from step 1",
    ):
        assert part in text


def test_a_failure_of_the_doctor_is_suspicious_and_a_warning_is_only_told(tmp_path: Path) -> None:
    finding = {
        "check": "disk",
        "level": "warning",
        "what": "little is left",
        "numbers": {"free_gib": 0.123456},
    }
    run = folder(tmp_path, 20)
    (run / "doctor.json").write_text(json.dumps({"mode": "warn", "findings": [finding, "nonsense"]}))
    assert judged(run).verdict == "healthy"
    text = Page(html.write(run).read_text()).text
    assert "little is left" in text
    assert "free_gib 0.1235" in text
    (run / "doctor.json").write_text(
        json.dumps({"findings": [finding | {"level": "failure", "why": "because"}]})
    )
    judgement = judged(run)
    assert (judgement.verdict, judgement.reasons[0].name, judgement.reasons[0].why) == (
        "suspicious",
        "doctor: disk",
        "because",
    )


def test_a_broken_step_and_a_crash_are_broken(tmp_path: Path) -> None:
    run = folder(tmp_path, 20)
    rows(run, [row(step) for step in range(1, 8)])
    dump = run / "dump" / "step_000008"
    dump.mkdir(parents=True)
    (dump / "broken.json").write_text(json.dumps({"step": 8, "what": "the loss is nan"}))
    (run / "exit.json").write_text(
        json.dumps({"code": 1, "error": "RuntimeError", "message": "stopped", "frames": ["a.py:1 f"]})
    )
    judgement = judged(run)
    assert judgement.verdict == "broken"
    assert [reason.what for reason in judgement.reasons] == [
        "Step 8: the loss is nan",
        "RuntimeError: stopped",
    ]
    assert judgement.progress == f"Unfinished: 7 of 20 steps. Go on with resume={run}."


def test_an_interrupted_run_is_unfinished_not_broken(tmp_path: Path) -> None:
    run = folder(tmp_path, 20)
    rows(run, [row(step) for step in range(1, 8)])
    (run / "exit.json").write_text(json.dumps({"code": 130}))
    judgement = judged(run)
    assert (judgement.verdict, judgement.finished) == ("healthy", False)


def test_a_run_that_is_held_is_still_being_written(tmp_path: Path) -> None:
    run = folder(tmp_path, 20)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert judged(run).progress == "Still being written: 20 of 20 steps so far."
    assert judged(run).progress == "Finished: 20 of 20 steps."


def test_a_judge_that_fails_is_told_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise KeyError("a metric")

    monkeypatch.setattr(judge.health, "symptoms", fails)
    judgement = judged(folder(tmp_path, 3))
    assert (judgement.verdict, judgement.problems) == (
        "unknown",
        ["The metrics could not be judged: KeyError: 'a metric'."],
    )
