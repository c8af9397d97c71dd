"""Ctrl-C or SIGTERM once: finish the step, save, exit 130. Twice: stop at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

EXIT_CODE = 130


class Interrupt:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning(
            "%s: finishing this step and saving; once more stops at once", signal.Signals(number).name
        )


@contextmanager
def listen() -> Iterator[Interrupt]:
    """Catch SIGINT and SIGTERM inside the block (in the main thread; elsewhere signals go where they went
    before).
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
