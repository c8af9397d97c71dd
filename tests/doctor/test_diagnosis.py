"""Findings: what each mode stops, the table, doctor.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rlvis.doctor.diagnosis import Diagnosis, failure, ok, warning, write
from rlvis.findings import ConfigError, from_json, table
from rlvis.schema import Doctor

FINE = ok("disk", "10 GiB are free", {"free": 10.0})
SO_SO = warning("gpu", "7 of 8 idle", {"idle": 7}, why="they wait", type="torchrun ...")
BAD = failure("ratio", "0.1 off", {"max_deviation": math.inf}, why="noise", type="model.dtype=float32")


@pytest.mark.parametrize(
    ("mode", "stopping"),
    [(Doctor.off, []), (Doctor.warn, ["ratio"]), (Doctor.strict, ["ratio", "gpu"])],
)
def test_each_mode_stops_what_it_should(mode: Doctor, stopping: list[str]) -> None:
    diagnosis = Diagnosis(mode, (FINE, SO_SO, BAD), 1.25)
    assert [f.name for f in diagnosis.stopping] == stopping
    assert diagnosis.headline == "3 checks in 1.2 s: 1 failure, 1 warning"


def test_a_refusal_has_numbers_reason_and_what_to_type() -> None:
    refusal = ConfigError(*Diagnosis(Doctor.strict, (FINE, SO_SO, BAD)).refusal())
    lines = str(refusal).splitlines()
    assert "doctor=off goes on all the same" in lines[0]
    assert lines[1:] == [
        "ratio: 0.1 off; noise; type model.dtype=float32",
        "gpu: 7 of 8 idle; they wait; type torchrun ...",
    ]


def test_a_problem_without_a_reason_is_refused() -> None:
    with pytest.raises(AssertionError):
        warning("x", "bad", why="", type="y=1")
    with pytest.raises(AssertionError):
        failure("x", "bad", why="noise", type="")


def test_the_table_has_a_line_a_finding_and_the_reason_below_a_problem() -> None:
    lines = table((FINE, SO_SO), width=60).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "ok disk 10 GiB are free",
        "warning gpu 7 of 8 idle",
        "why: they wait",
        "type: torchrun ...",
    ]


def test_brackets_in_a_finding_are_no_markup() -> None:
    text = table([ok("x", "shape [red] of [4, 1]")], width=80)
    assert "shape [red] of [4, 1]" in text


def test_doctor_json_is_strict_json_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = write(Diagnosis(Doctor.warn, (FINE, BAD), 0.5), tmp_path / "new")
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (content["mode"], content["seconds"]) == ("warn", 0.5)
    assert content["findings"][1] == {
        "name": "ratio",
        "severity": "failure",
        "what": "0.1 off",
        "numbers": {"max_deviation": "inf"},
        "wanted": "",
        "why": "noise",
        "type": "model.dtype=float32",
        "source": "",
        "step": None,
        "evidence": [],
    }
    assert from_json(content["findings"][0]) == FINE
    assert [p.name for p in path.parent.iterdir()] == ["doctor.json"]
