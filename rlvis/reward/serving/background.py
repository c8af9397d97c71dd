"""An event loop in a thread, for code that calls and waits; and ways to wait for several jobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Runs coroutines for callers in any thread; the loop starts with the first one.

    loop: makes the event loop; a test's has another clock.
    """

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self._make = loop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns, or raises; an interrupt of the caller cancels it."""
        with self._lock:
            if self._loop is None:
                self._loop = self._make()
                # A daemon: an interrupted run does not wait for a server that says nothing.
                self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="reward")
                self._thread.start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop; nothing may be running in it."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure ends the others."""
    running = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*running))
    finally:
        await cancelled(running)


async def first(running: Iterable[asyncio.Future[T]], lost: type[Exception]) -> T:
    """The first result, or failure other than `lost`; where there is none, the last failure."""
    left, failure = set(running), None
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for job in done:
            failure = job.exception()
            if not isinstance(failure, lost):
                return job.result()
    assert failure is not None
    raise failure


async def cancelled(running: Iterable[asyncio.Future[T]]) -> None:
    """End what still runs, and wait until it has."""
    jobs = list(running)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
