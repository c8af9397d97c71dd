"""How a verb ends: whose errors are messages and whose tracebacks, where they are printed, what is logged."""

from __future__ import annotations

import errno
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvis import writing
from rlvis.cli.exit_codes import NewsFormatter, exit_code_of, refuse
from rlvis.data.world import language
from rlvis.findings import ConfigError, mistake
from rlvis.runs import exit_state
from rlvis.runtime.dist import World


def broken(error: Exception) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "last"),
    [
        (lambda: 3, 3, ""),
        (broken(ConfigError(mistake("a=1", "a=2"))), 2, "error: a=1; type a=2"),
        (lambda: language.prompts("nowhere"), 2, "error: "),  # a ValueError of ours is for the user
        (lambda: json.loads("{"), 1, "error: the run failed: JSONDecodeError: "),  # a library's is not
        (broken(RuntimeError("broke\nin two")), 1, "error: the run failed: RuntimeError: broke in two"),
        (broken(OSError("disk")), 1, "error: the run failed: OSError: disk"),
    ],
)
def test_errors_become_exit_codes(
    work: Callable[[], Any],
    code: int,
    last: str,
    capsys: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert exit_code_of(work) == code
    err = capsys.readouterr().err
    assert err.startswith(last)
    assert err.count("\n") == bool(last)  # one line; where the traceback lies stands at its end
    if code == 1:
        kept = Path(err.rstrip().rpartition("its traceback: ")[2])
        assert kept.parent == tmp_path
        assert kept.read_text().startswith("Traceback (most recent call last):")


def test_the_traceback_of_a_run_lies_in_its_folder(tmp_path: Path, capsys: Any) -> None:
    def work() -> int:
        with exit_state.record_exit(tmp_path, World()):
            raise RuntimeError("the gradient is infinite")

    assert exit_code_of(work) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"its traceback: {tmp_path / 'traceback.txt'}")
    assert "RuntimeError: the gradient is infinite" in (tmp_path / "traceback.txt").read_text()
    with exit_state.record_exit(tmp_path, World()):  # a new start clears it
        pass
    assert not (tmp_path / "traceback.txt").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors puts it
    ],
)
def test_a_full_disk_is_a_line_and_leaves_what_was_there(
    error: Exception, tmp_path: Path, capsys: Any
) -> None:
    writing.text(tmp_path / "model" / "old", "whole")

    def work() -> int:
        with writing.aside(tmp_path / "model") as part:
            part.mkdir()
            (part / "half").touch()
            raise error

    assert exit_code_of(work) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'model'} could not be written whole" in line
    assert "MiB free; free some, for a run by rlvis checkpoint prune RUN keep=1" in line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "old").read_text() == "whole"


def test_every_finding_is_a_line_and_only_one_process_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    error = ConfigError(mistake("a=1", "a=2"), "b is missing\nand c")
    assert refuse(error) == 2
    lines = ["error: a=1; type a=2", "error: b is missing", "error: and c"]
    assert capsys.readouterr().err.splitlines() == lines
    monkeypatch.setenv("RANK", "1")
    assert refuse(error) == 2
    assert capsys.readouterr().err == ""
    assert refuse(error, everywhere=True) == 2
    assert capsys.readouterr().err.splitlines() == lines


def test_our_news_are_plain_and_others_say_whose_they_are() -> None:
    def text(name: str, level: int) -> str:
        return NewsFormatter().format(logging.LogRecord(name, level, "", 0, "saved %d", (3,), None))

    assert text("rlvis.training.loop", logging.INFO) == "saved 3"
    assert text("rlvis.training.loop", logging.WARNING) == "WARNING rlvis.training.loop: saved 3"
    assert text("diffusers", logging.INFO) == "INFO diffusers: saved 3"
