"""The run's folder: unique, held, refused when taken; resume finds the newest whole checkpoint and compares
settings.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvis.checkpoints import open_run, resume
from rlvis.findings import ConfigError
from rlvis.runs import folder as run_folder
from rlvis.schema import Config, plain
from tests.whole import alone, settings
from tests.whole import run as whole

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_two_runs_of_one_second_have_two_folders_with_their_configuration() -> None:
    with (
        open_run.open_run(settings(name="a"), True, alone) as one,
        open_run.open_run(settings(name="a"), True, alone) as two,
    ):
        assert one.path != two.path
        assert one.path.parent == two.path.parent == Path("outputs/a")
        assert one.checkpoint is None
        assert resume.saved_settings(one.path) == plain(settings(name="a"))


def test_the_other_processes_take_what_they_are_told(elsewhere: Path) -> None:
    agreed = open_run.RunFolder(Path("there"))
    with open_run.open_run(settings(), False, lambda value: agreed) as folder:
        assert folder is agreed
    assert list(elsewhere.iterdir()) == []


def test_a_refusal_is_raised_on_every_process() -> None:
    with (
        pytest.raises(ConfigError, match="it is in use"),
        open_run.open_run(settings(), False, lambda value: ConfigError("it is in use")),
    ):
        pass


def test_a_folder_in_use_is_refused_and_free_afterwards() -> None:
    config = settings(run_dir="here")
    with open_run.open_run(config, True, alone):
        again = dataclasses.replace(config, run_dir=None, resume=str(whole(Path("here"))))
        assert f"in use by process {os.getpid()}" in str(open_run.errors(again)[0])
        with pytest.raises(ConfigError, match="is in use"), open_run.open_run(again, True, alone):
            pass
    assert open_run.errors(again) == []
    with open_run.open_run(again, True, alone) as folder:
        assert folder == open_run.RunFolder(Path("here"), Path("here/checkpoints/step_000003"))


def test_the_folder_of_a_killed_run_is_free(elsewhere: Path) -> None:
    whole(Path("here"))
    code = (
        "import os, fcntl\nfile = os.open('here/.lock', os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\nprint('held', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert open_run.errors(settings(resume="here")) != []
        other.kill()
    assert open_run.errors(settings(resume="here")) == []


def test_a_folder_with_another_run_is_refused_and_its_files_are_kept() -> None:
    whole(Path("here"))
    before = Path("here/config.yaml").read_text()
    assert "type resume=here" in str(open_run.errors(settings(run_dir="here"))[0])
    with pytest.raises(ConfigError, match="already holds a run"):
        open_run.open_run(settings(run_dir="here", seed=5), True, alone).__enter__()
    assert Path("here/config.yaml").read_text() == before


def test_what_a_refused_run_left_is_no_run() -> None:
    with open_run.open_run(settings(run_dir="here"), True, alone):
        Path("here/doctor.json").touch()
    assert open_run.errors(settings(run_dir="here")) == []
    with open_run.open_run(settings(run_dir="here", seed=5), True, alone):
        assert "seed: 5" in Path("here/config.yaml").read_text()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.parent.joinpath("up").touch()])
def test_a_folder_that_cannot_be_written_is_a_clear_mistake(make: Callable[[Path], None]) -> None:
    make(Path("here"))
    target = "here" if Path("here").exists() else "up/below"
    with pytest.raises(ConfigError, match=f"{target}.*type run_dir=DIR"):
        open_run.open_run(settings(run_dir=target), True, alone).__enter__()


def test_a_full_disk_is_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, config: Config) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "write_config", full)
    broadcasts: list[Any] = []
    with pytest.raises(ConfigError, match="No space left"):
        open_run.open_run(settings(), True, lambda value: broadcasts.append(value) or value).__enter__()
    assert "No space left" in str(broadcasts[0])
