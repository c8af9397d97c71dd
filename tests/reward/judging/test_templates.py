"""A judge's instruction out of its publisher's file: pinned, never run, and checked for its places."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from rlvis.reward.judging.templates import Source, constants, template

CODE = 'import torch_of_theirs\nFIRST = """Rate {text_prompt}.\n"""\nOTHER = 3\nLAST = "Now: <|R|>"\n1 / 0\n'
TEXT = "Rate {text_prompt}.\nNow: <|R|>"


def source(address: str, text: str = TEXT) -> Source:
    return Source(address, ("FIRST", "LAST"), hashlib.sha256(text.encode()).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path


def test_it_is_fetched_once_and_no_code_runs(cache: Path) -> None:
    published = cache / "prompts.py"
    published.write_text(CODE, encoding="utf-8")
    there = source(published.as_uri())
    assert template(None, there, ("<|R|>",), "judge") == TEXT
    published.unlink()
    assert template(None, there, ("<|R|>",), "judge") == TEXT


def test_another_text_at_the_address_is_refused(cache: Path) -> None:
    published = cache / "prompts.py"
    published.write_text(CODE, encoding="utf-8")
    with pytest.raises(ValueError, match="has changed"):
        template(None, source(published.as_uri(), "other"), (), "judge")
    with pytest.raises(ValueError, match="give template=FILE"):
        template(None, source((cache / "none.py").as_uri()), (), "judge")


def test_a_file_may_be_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code, text = tmp_path / "prompts.py", tmp_path / "prompt.txt"
    code.write_text(CODE, encoding="utf-8")
    text.write_text("{text_prompt} <|R|>", encoding="utf-8")
    there = source("https://example.com/prompts.py")
    with caplog.at_level(logging.WARNING):
        assert template(str(code), there, ("<|R|>",), "judge") == TEXT
        assert not caplog.text
        assert template(str(text), there, ("<|R|>",), "judge") == "{text_prompt} <|R|>"
    assert "is not the text that the released weights know" in caplog.text
    with pytest.raises(ValueError, match=r"has <\|S\|> 0 times, wanted once"):
        template(str(text), there, ("<|R|>", "<|S|>"), "judge")
    with pytest.raises(ValueError, match="cannot be read"):
        template(str(tmp_path / "none"), there, (), "judge")


def test_code_without_the_constants_is_refused() -> None:
    with pytest.raises(ValueError, match="has no text constant OTHER"):
        constants(CODE, ("FIRST", "OTHER"), "prompts.py")
    with pytest.raises(ValueError, match="is not Python"):
        constants("FIRST = ", ("FIRST",), "prompts.py")
