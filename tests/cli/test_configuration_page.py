"""docs/configuration.md is what the schema says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "scripts" / "make_configuration_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert text == script.page(), "type python scripts/make_configuration_page.py"
    for key in ("`sampler.window.size`", "`reward.terms.NAME.scorer`", "`threads`", "`jpeg_compressibility`"):
        assert key in text
