"""Run folders to go on from, examples of a help text, and what reaches a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlvis import cli
from rlvis.compose.command import compose
from rlvis.schema import Config, plain
from rlvis.training.loop import Outcome


class Trainings:
    """The configurations that were trained; `codes`, by their seed, are how the trainings ended (0)."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.codes: dict[int, int] = {}

    def start(self, config: Config, argv: list[str]) -> Outcome:
        """In the place of `one_run.start`."""
        assert argv[:2] == ["rlvis", "train"]
        self.configs.append(config)
        return Outcome(self.codes.get(config.seed, 0), Path("outputs/run/DATE_TIME"))


def write_config(folder: Path, *words: str) -> Path:
    """A run folder with the config.yaml of a default run changed by `words`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = plain(compose(words).typed()) | {"run_dir": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def examples(text: str, program: str) -> list[list[str]]:
    """The words behind `program` in every example of a help text."""
    lines = [line for line in text.splitlines() if f"{program} " in line and "usage" not in line]
    words = [line.split(f"{program} ", 1)[1].split("  ")[0].split() for line in lines]
    assert len(words) >= 6
    return words


def write_prompts(file: Path) -> None:
    """Fifty prompts, enough for a step of any example."""
    file.write_text("".join(f"a thing number {i}\n" for i in range(50)))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command line is refused: exit code 2, no traceback, nothing else printed."""
    capsys.readouterr()
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line
