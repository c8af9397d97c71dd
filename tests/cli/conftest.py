"""What the tests of the command line share: a folder of their own, and trainings that do not train."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvis.cli import one_run
from tests.cli.helpers import Trainings
from tests.report.conftest import quick_figures

__all__ = ["quick_figures"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test writes below a folder of its own, as the only process."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Everything up to a training is real; trainings themselves are noted down, and have no page."""
    trainings = Trainings()
    monkeypatch.setattr(one_run, "start", trainings.start)
    monkeypatch.setattr(one_run, "write_report", lambda run_dir: None)
    return trainings
