"""A time limit for code that knows of none (reward.timeout where scorers run in this process).

In the main thread a timer interrupts the call where it is, so that scorers stay in the thread they know;
elsewhere (and where somebody uses the timer already) the call runs in a thread of its own that is left behind
when it is late. Code that never returns to Python cannot be interrupted, only left behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")
AGAIN = 1.0  # seconds until a call that swallowed its interruption is interrupted once more


class LateError(TimeoutError):
    """A call took longer than it may, or one before it has not come back yet. Asking again does not help."""

    away = False


class _Interrupted(BaseException):
    """Raised in a late call; no Exception, so that the call does not take it for one of its own."""


class Holder(Protocol):
    """Whoever remembers the thread of a call that was left behind."""

    _lost: threading.Thread | None


def within(seconds: float | None, call: Callable[[], T], holder: Holder, beside: bool) -> T:
    """What `call` returns within so many seconds (None: whenever). Raises LateError.

    beside: this thread works beside another of the run.
    """
    if seconds is None:
        return call()
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if main and not beside and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):
        return _interrupted(seconds, call)
    return _left_behind(seconds, call, holder)


def _interrupted(seconds: float, call: Callable[[], T]) -> T:
    waiting = True

    def ring(number: int, frame: Any) -> None:
        if waiting:
            raise _Interrupted

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        return call()
    except _Interrupted:
        raise LateError(f"no scores within {seconds:g} s (reward.timeout)") from None
    finally:
        waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _left_behind(seconds: float, call: Callable[[], T], holder: Holder) -> T:
    if holder._lost is not None and holder._lost.is_alive():
        raise LateError(f"its last call has not come back after {seconds:g} s (reward.timeout)")
    box: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            box.append(call())
        except BaseException as error:  # raised again where somebody waits
            failed.append(error)

    thread = threading.Thread(target=as_here(run), daemon=True, name="scorer")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        holder._lost = thread
        raise LateError(f"no scores within {seconds:g} s (reward.timeout)")
    if failed:
        raise failed[0]
    result: T = box[0]
    return result


def as_here(call: Callable[..., T]) -> Callable[..., T]:
    """`call` for another thread, under this one's number of threads and GPU: torch keeps both for each
    thread, and the default of a new one is another GPU, other bits.
    """
    threads, gpu = torch.get_num_threads(), torch.cuda
    is_initialized: Callable[[], bool] = gpu.is_initialized
    device = gpu.current_device() if is_initialized() else None

    def run(*arguments: Any) -> T:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if device is not None:
            gpu.set_device(device)
        return call(*arguments)

    return run
