"""How a verb ends: whose errors are messages and whose tracebacks, where they are printed, what is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from rlvis.cli.exit_codes import NewsFormatter, exit_code_of, refuse
from rlvis.data.world import language
from rlvis.findings import ConfigError, mistake


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
        (broken(RuntimeError("broke")), 1, "error: the run failed: RuntimeError: broke"),
        (broken(OSError("disk")), 1, "error: the run failed: OSError: disk"),
    ],
)
def test_errors_become_exit_codes(work: Callable[[], Any], code: int, last: str, capsys: Any) -> None:
    assert exit_code_of(work) == code
    err = capsys.readouterr().err
    assert ("Traceback" in err) == (code == 1)
    assert err.splitlines()[-1].startswith(last) if last else err == ""


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
