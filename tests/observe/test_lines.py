"""Files with a JSON object a line, whole and broken."""

from __future__ import annotations

from pathlib import Path

from rlvis.observe import lines


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"step": 2, "a": 1}\n[1]\n{"step": Infinity}\n{"a": 1}\n{"step": 1.0}\n\n{"step": 4, "b"'
    )
    assert list(lines.steps(path)) == [{"step": 2, "a": 1}, {"step": 1}]
    assert list(lines.steps(tmp_path / "none.jsonl")) == []
