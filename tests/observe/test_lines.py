"""Files with a JSON object a line, whole and broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvis.observe import lines


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"step": 2, "a": 1}\n[1]\n{"step": Infinity}\n{"a": 1}\n{"step": 1.0}\n\n{"step": 4, "b"'
    )
    assert list(lines.steps(path)) == [{"step": 2, "a": 1}, {"step": 1}]
    assert list(lines.steps(tmp_path / "none.jsonl")) == []


@pytest.mark.parametrize(
    "line", [b"[1]", b'{"a": 1}', b"\xff\xfe", b'{"step": "x"}', b'{"step": 1e30}', b'{"st']
)
def test_a_resumed_run_leaves_out_what_it_cannot_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n' + line + b"\n")
    lines.keep_before(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
