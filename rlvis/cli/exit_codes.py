"""How a verb ends: exit codes, one line for a mistake or a failure, the log on stderr.

A traceback goes to a file, RUN/traceback.txt where there is a run, and the line says where it lies.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import rlvis
from rlvis import writing
from rlvis.cli.arguments import process
from rlvis.findings import ConfigError, as_lines, mistake
from rlvis.named import one_line, place

OK, FAILED, WRONG, INTERRUPTED, CUT_OFF = 0, 1, 2, 130, 141


def exit_code_of(work: Callable[[], int]) -> int:
    """Exit code of something heavy: what rlvis complains about is a mistake, anything else a failure."""
    try:
        return work()
    except Exception as error:
        return ended_by(error)


def ended_by(error: Exception) -> int:
    """Say in a line what ended the program, and return its exit code."""
    if isinstance(error, BrokenPipeError) and not _can_print():
        return CUT_OFF
    if isinstance(error, ConfigError) or (isinstance(error, ValueError) and _is_ours(error)):
        return refuse(error, everywhere=True)
    return _fail(error)


def cut_off() -> int:
    """Nobody reads what is printed any more (`rlvis list | head`): end as other programs do, in silence."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CUT_OFF


class NewsFormatter(logging.Formatter):
    """News of rlvis as they are; everything above them, and other libraries', with level and origin."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.name.startswith("rlvis") and record.levelno == logging.INFO:
            return message
        return f"{record.levelname} {record.name}: {message}"


def log_to_stderr(rank: int) -> None:
    """Messages of rlvis from INFO on the leading process, warnings from everyone; a handler that is there
    already stays.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(NewsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("rlvis").setLevel(logging.INFO if rank == 0 else logging.WARNING)


def _is_ours(error: BaseException) -> bool:
    """Whether rlvis itself raised this, which it does with a message for users; a library's ValueError keeps
    its traceback.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(
        Path(rlvis.__file__).parent
    )


def refuse(error: ValueError, *, everywhere: bool = False) -> int:
    """Print the user's mistakes, a line each, and return their exit code. everywhere: also on the other
    processes.
    """
    if everywhere or process()[0] == 0:
        findings = error.findings if isinstance(error, ConfigError) else [mistake(str(error))]
        print("\n".join(as_lines(findings, "error: ")), file=sys.stderr)
    return WRONG


def _fail(error: Exception) -> int:
    """One line: what happened, where it was raised, where the traceback lies."""
    lines = " ".join(_words(error).split())
    from rlvis.runs.exit_state import keep_traceback

    kept = keep_traceback(error, Path(tempfile.gettempdir()) / f"rlvis_traceback_{os.getpid()}.txt")
    if kept is None:
        traceback.print_exception(error)
    else:
        lines += f"; its traceback: {kept}"
    print(f"error: the run failed: {lines}", file=sys.stderr)
    return FAILED


def _words(error: Exception) -> str:
    """What happened: a full disk with what to free, an error of ours as it is, another with its place."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and writing.full(cause) is not None:
            return _full_disk(cause)
    if _is_ours(error):
        return f"{type(error).__name__}: {error}"
    where = place(error)
    return one_line(error) + (f" (raised at {where})" if where else "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _full_disk(error: OSError) -> str:
    """Which file could not be written, how much is free there, and what to do."""
    path = Path(error.filename) if isinstance(error.filename, str) else Path.cwd()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        free = f", {shutil.disk_usage(path).free / 2**20:.0f} MiB free"
    except OSError:
        free = ""
    return (
        f"{error.strerror}: {error.filename or 'a file'} could not be written whole and was left out{free}; "
        "free some, for a run by rlvis checkpoint prune RUN keep=1, and go on with rlvis train resume=RUN, "
        "which writes what is missing"
    )


def _can_print() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True
