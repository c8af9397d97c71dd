"""RUN/exit.json: how the run ended, for whoever looks at the folder later.

    {"code": 1, "ended": "2026-01-31T12:00:00+00:00", "error": "OutOfMemoryError", "message": "...",
     "frames": ["rlvis/update/stage.py:126 update", ...]}

A run that ended itself, or has something to say about its end, has a message beside its code. A run that was
killed leaves none: the file of an earlier start is removed when one begins. Ranks other than the first write
exit.rankN.json, and only when they fail. RUN/traceback.txt (traceback.rankN.txt) holds the traceback of what
was raised, for whoever needs more than the one line that a user is told.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rlvis
from rlvis import writing
from rlvis.runtime.dist import World

FRAMES, LETTERS = 8, 2000  # of a traceback and a message
KEPT = "rlvis_traceback"  # attribute of an exception: where its traceback lies
NOTHING_TRAINED = 3  # exit code of a run that was ended because its steps trained nothing


@dataclass
class ExitCode:
    """The exit code of the block, and a word about it; whoever runs it sets them before leaving."""

    code: int = 0
    message: str = ""
    moved: float | None = None  # how far the exported weights lie from where they began


@contextmanager
def record_exit(run_dir: Path, world: World) -> Iterator[ExitCode]:
    """Write down how the block ends; what it raises goes on."""
    name = "exit.json" if world.is_main else f"exit.rank{world.rank}.json"
    if world.is_main:
        for old in (*run_dir.glob("exit*.json"), *run_dir.glob("traceback*.txt")):
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
        if isinstance(error, Exception):
            keep_traceback(
                error, run_dir / ("traceback.txt" if world.is_main else f"traceback.rank{world.rank}.txt")
            )
        raise
    if world.is_main:
        ended: dict[str, Any] = {"code": state.code}
        if state.moved is not None:
            ended["moved"] = state.moved
        if state.message:
            kind = {"error": "NothingTrained"} if state.code == NOTHING_TRAINED else {}
            ended |= kind | {"message": state.message}
        _write(run_dir / name, ended)


def keep_traceback(error: BaseException, path: Path) -> Path | None:
    """Write the traceback of `error`, with its causes; return where it lies, None where it cannot be written.

    What lies somewhere already is not written again.
    """
    kept = getattr(error, KEPT, None)
    if isinstance(kept, Path):
        return kept
    if not path.parent.is_dir():
        return None
    try:
        writing.text(path, "".join(traceback.format_exception(error)), sync=False)
        setattr(error, KEPT, path)
    except (OSError, AttributeError):  # a full disk, or an exception that takes no attribute
        return None
    return path


def folder_of(error: BaseException) -> Path | None:
    """The folder of the run that was ended by an exception; None where none was."""
    kept = getattr(error, KEPT, None)
    return kept.parent if isinstance(kept, Path) else None


def _frame(frame: traceback.FrameSummary) -> str:
    """Place of a frame without the folders above a package."""
    path = Path(frame.filename)
    home = Path(rlvis.__file__).parent.parent
    short = path.relative_to(home) if path.is_relative_to(home) else Path(*path.parts[-2:])
    return f"{short}:{frame.lineno} {frame.name}"


def _write(path: Path, content: dict[str, Any]) -> None:
    content["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
    if not path.parent.is_dir():  # somebody removed the run: it is not made anew
        return
    try:
        writing.text(path, json.dumps(content, indent=1) + "\n")
    except OSError:  # a full disk or a removed folder must not hide why the run ended
        return
