"""RUN/exit.json: how the run ended, for whoever looks at the folder later.

    {"code": 1, "ended": "2026-01-31T12:00:00+00:00", "error": "OutOfMemoryError", "message": "...",
     "frames": ["rlvis/update/stage.py:126 update", ...]}

A run that was killed leaves none: the file of an earlier start is removed when one begins. Ranks other than
the first write exit.rankN.json, and only when they fail.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rlvis
from rlvis.runtime.dist import World

FRAMES, LETTERS = 8, 2000  # of a traceback and a message


@dataclass
class ExitCode:
    """The exit code of the block; whoever runs it sets it before leaving."""

    code: int = 0


@contextmanager
def record_exit(run_dir: Path, world: World) -> Iterator[ExitCode]:
    """Write down how the block ends; what it raises goes on."""
    name = "exit.json" if world.is_main else f"exit.rank{world.rank}.json"
    if world.is_main:
        for old in run_dir.glob("exit*.json"):
            old.unlink(missing_ok=True)
    state = ExitCode()
    try:
        yield state
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        failure = {
            "error": type(error).__name__,
            "message": str(error)[:LETTERS],
            "frames": [_frame(frame) for frame in traceback.extract_tb(error.__traceback__)[-FRAMES:]],
        }
        _write(run_dir / name, {"code": 130 if interrupted else 1} | failure)
        raise
    if world.is_main:
        _write(run_dir / name, {"code": state.code})


def _frame(frame: traceback.FrameSummary) -> str:
    """Place of a frame without the folders above a package."""
    path = Path(frame.filename)
    home = Path(rlvis.__file__).parent.parent
    short = path.relative_to(home) if path.is_relative_to(home) else Path(*path.parts[-2:])
    return f"{short}:{frame.lineno} {frame.name}"


def _write(path: Path, content: dict[str, Any]) -> None:
    content["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
    aside = path.with_name(f".{path.name}")
    try:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)
    except OSError:  # a full disk or a removed folder must not hide why the run ended
        return
