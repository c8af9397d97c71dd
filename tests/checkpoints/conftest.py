from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative folders start in the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
