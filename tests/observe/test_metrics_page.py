"""docs/metrics.md is what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rlvis.observe.metric_table import KEYS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "scripts" / "make_metrics_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert text == script.page(), "type python scripts/make_metrics_page.py"
    assert all(f"`{key}`" in text for key in KEYS)
