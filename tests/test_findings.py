"""The one record of what is wrong: as a line, as an error, as JSON, as a table."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest

from rlvis.findings import (
    ConfigError,
    Finding,
    Severity,
    as_lines,
    block,
    from_json,
    mistake,
    table,
    to_json,
    worst_first,
    write_json,
)

FULL = Finding(
    name="ratio-first",
    severity=Severity.warning,
    what="0.1 off",
    numbers={"deviation": 0.1, "scope": "sample"},
    wanted="0",
    why="noise",
    type="model.dtype=float32",
    source="update/ratio",
    step=3,
    evidence=("bfloat16", "no guard"),
)


def test_a_finding_is_a_line_of_what_it_has() -> None:
    assert str(FULL) == "ratio-first: 0.1 off; noise; type model.dtype=float32"
    assert str(mistake("a=1: wanted 2", "a=2", why="they say so")) == "a=1: wanted 2; they say so; type a=2"
    assert str(mistake("a=1")) == "a=1"


def test_an_error_carries_its_findings_from_rank_to_rank() -> None:
    error = ConfigError(mistake("a=1", "a=2"), "b is missing\nc too")
    assert str(error) == "a=1; type a=2\nb is missing\nc too"
    assert as_lines(error.findings, "error: ") == [
        "error: a=1; type a=2",
        "error: b is missing",
        "error: c too",
    ]
    again = pickle.loads(pickle.dumps(error))
    assert (again.findings, str(again)) == (error.findings, str(error))


def test_the_worst_come_first_and_others_keep_their_order() -> None:
    ok, bad, worse = (Finding(what=s.value, severity=s) for s in Severity)
    assert worst_first([ok, bad, worse]) == [worse, bad, ok]
    assert worst_first([bad, ok, bad], Severity.warning) == [bad, bad]


def test_json_there_and_back(tmp_path: Path) -> None:
    path = write_json(tmp_path / "new" / "findings.json", {"findings": [to_json(FULL)]})
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert from_json(content["findings"][0]) == FULL
    endless = to_json(Finding(what="x", numbers={"loss": math.inf, "steps": 2}))
    assert endless["numbers"] == {"loss": "inf", "steps": 2}
    assert [file.name for file in path.parent.iterdir()] == ["findings.json"]


def test_earlier_and_strange_files_are_read() -> None:
    old = {"check": "gpu", "level": "failure", "what": "none", "numbers": {"gpus": 0}, "why": "", "type": ""}
    assert from_json(old) == Finding(name="gpu", what="none", numbers={"gpus": 0})
    strange = {"severity": "dire", "numbers": [1], "step": "3", "evidence": "yes", "what": 5}
    assert from_json(strange) == Finding(what="5", severity=Severity.warning)


def test_terminal_texts() -> None:
    lines = block(FULL, width=40, indent="  ")
    assert lines == [
        "  0.1 off. Wanted: 0.",
        "  - bfloat16",
        "  - no guard",
        "  why: noise",
        "  type: model.dtype=float32",
    ]
    rows = [" ".join(line.split()) for line in table([FULL, mistake("a=[red]")], width=60).splitlines()]
    assert rows == [
        "warning ratio-first 0.1 off",
        "why: noise",
        "type: model.dtype=float32",
        "failure a=[red]",
    ]
