"""`rlvis autopsy`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvis.cli import autopsy
from rlvis.findings import ConfigError
from tests.observe.curves import healthy
from tests.report.test_autopsy import run


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert autopsy.run([str(tmp_path)]) == 1
    assert "holds nothing of a run" in capsys.readouterr().out
    assert autopsy.run(["--help"]) == 0
    assert autopsy.run([]) == 2
    assert autopsy.run(["a", "b"]) == 2
    with pytest.raises(ConfigError, match="is not a folder; type rlvis autopsy"):
        autopsy.run([str(tmp_path / "nowhere")])


def test_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = healthy(30)
    rows[20]["update/grad_norm"] = 0.9
    run(tmp_path, rows)
    assert autopsy.run([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "finished, 30 of 30 steps written" in text
    assert "First bad step: 20" in text
    assert autopsy.run([str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [s["name"] for s in content["symptoms"]] == ["gradient-jump"]
    assert content["first_bad"] == 20
    assert content["causes"][0]["what"] == "a learning rate too high"
