"""Pages without matplotlib's figures, for the tests that look at everything else of a page."""

from __future__ import annotations

import pytest

from rlvis.report import plots


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty SVG elements under their names; what draws them is called all the same."""
    monkeypatch.setattr(plots, "render", lambda name, draw, size=None: f'<svg role="img" id="{name}"></svg>')
