"""How a verb ends: exit codes, one message for a mistake, a traceback for a failure, the log on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import rlvis
from rlvis.cli.arguments import process
from rlvis.findings import ConfigError, as_lines, mistake

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def exit_code_of(work: Callable[[], int]) -> int:
    """Exit code of something heavy: what rlvis complains about is a message, anything else a failure."""
    try:
        return work()
    except ValueError as error:
        if isinstance(error, ConfigError) or _is_ours(error):
            return refuse(error, everywhere=True)
        return _fail(error)
    except Exception as error:
        return _fail(error)


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


def _fail(error: BaseException) -> int:
    traceback.print_exception(error)
    print(f"error: the run failed: {type(error).__name__}: {error}", file=sys.stderr)
    return FAILED
