"""`rlvis report`: one run, several, a folder of runs; what is wrong is said with what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvis import cli
from tests.cli.helpers import refusal
from tests.report.making import folder

pytestmark = pytest.mark.usefixtures("quick_figures")


def test_a_run_is_compared_with_the_defaults(tmp_path: Path, capsys: Any) -> None:
    run = folder(tmp_path, 2, optim__lr=0.125)
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    text = (run / "report.html").read_text()
    assert "<td>0.0002</td>" in text  # the default of optim.lr
    assert "<td>0.125</td>" in text


def test_a_folder_of_runs_and_several_runs_are_compared(capsys: Any) -> None:
    runs = [folder(Path("sweep") / name, 2, seed=n) for n, name in enumerate("abc")]
    assert cli.main(["report", "sweep"]) == 0
    assert capsys.readouterr().out == "sweep/report.html\n"
    assert "3 runs in 1 arm;" in Path("sweep/report.html").read_text()
    assert cli.main(["report", str(runs[0]), str(runs[1])]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    assert cli.main(["report", str(runs[0]), str(runs[1]), "to=mine.html"]) == 0
    assert "2 runs in 1 arm;" in Path("mine.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not a folder; type rlvis report"),
        (["empty"], "empty is no run folder and holds none: no config.yaml"),
        ([], "no run was named; type rlvis report"),
        (["run", "to=x.html"], "to=x.html is for comparisons"),
        (["run", "base=grpo"], "base=grpo is for comparisons"),
        (["run", "other", "threshold=high"], "threshold=high is no number; type threshold=0.5"),
        (["run", "other", "base=nothing"], "base=nothing is no arm"),
        (["run", "--fast"], "--fast is not known here"),
        (["run", "run"], "two different runs or more"),
        (["run", "other", "to=nowhere/x.html"], "type to=FILE.html"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: Any) -> None:
    folder(Path("run"), 1)
    folder(Path("other"), 1)
    Path("empty").mkdir()
    assert message in refusal(capsys, "report", *words)


def test_help(capsys: Any) -> None:
    assert cli.main(["report", "--help"]) == 0
    assert "usage: rlvis report RUN [RUN ...] [to=FILE]" in capsys.readouterr().out
