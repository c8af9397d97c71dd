"""How a verb ends: exit codes, one message for a mistake, a traceback for a failure, the log on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import rlvis
from rlvis.cli.arguments import process
from rlvis.findings import ConfigError

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def guarded(work: Callable[[], int]) -> int:
    """Exit code of something heavy: our own complaints are messages, anything else a failure."""
    try:
        return work()
    except ValueError as error:
        if isinstance(error, ConfigError) or _is_ours(error):
            return wrong(error, everywhere=True)
        return _failed(error)
    except Exception as error:
        return _failed(error)


class _Plain(logging.Formatter):
    """Our own news as they are; everything above them, and other libraries', with level and origin."""

    def format(self, record: logging.LogRecord) -> str:
        told = super().format(record)
        if record.name.startswith("rlvis") and record.levelno == logging.INFO:
            return told
        return f"{record.levelname} {record.name}: {told}"


def log_to_stderr(rank: int) -> None:
    """Our own messages from INFO on the leading process, warnings from everyone; a handler that is there
    already stays.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
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


def wrong(error: BaseException, *, everywhere: bool = False) -> int:
    if everywhere or process()[0] == 0:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
    return WRONG


def _failed(error: BaseException) -> int:
    traceback.print_exception(error)
    print(f"error: the run failed: {type(error).__name__}: {error}", file=sys.stderr)
    return FAILED
