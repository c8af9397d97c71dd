"""When scoring happens: at once, or in a thread while the next shard is rolled out.

Unusual: at most one job runs and none waits, so that decoded frames of two shards exist at a time (the one
being scored and the one being rolled out) however slow the scorers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from rlvis.schema import Executor

T = TypeVar("T")


class Scoring(Protocol):
    """Takes jobs, and runs them in order. busy: seconds that they took."""

    busy: float

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Hand in a job; it runs before any that is handed in later."""
        ...

    def close(self) -> None:
        """Nothing is handed in any more; what has not begun is dropped."""
        ...


class Inline:
    """Runs a job as it is handed in."""

    def __init__(self) -> None:
        self.busy = 0.0

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run a job; raises what it raises."""
        start = time.perf_counter()
        done: Future[T] = Future()
        done.set_result(job())
        self.busy += time.perf_counter() - start
        return done

    def close(self) -> None:
        """There is nothing to end."""


class Threaded:
    """Runs jobs in a thread. `submit` waits for the job before, so one runs and the caller holds the next."""

    def __init__(self) -> None:
        self.busy = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._last: Future[Any] | None = None

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Begin a job; raises what the one before raised."""
        if self._last is not None:
            self._last.result()
        # Torch keeps both for each thread, and the default of a new one is another GPU, other bits.
        threads = torch.get_num_threads()
        gpu: Any = torch.cuda
        device = gpu.current_device() if gpu.is_initialized() else None

        def run() -> T:
            start = time.perf_counter()
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if device is not None:
                torch.cuda.set_device(device)
            try:
                return job()
            finally:
                self.busy += time.perf_counter() - start

        self._last = future = self._pool.submit(run)
        return future

    def close(self) -> None:
        """Drop what has not begun; a job that runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def opened(executor: Executor) -> Iterator[Scoring]:
    """The way to score that a configuration names; closed at the end of the block."""
    scoring: Scoring = Inline() if executor is Executor.inline else Threaded()
    try:
        yield scoring
    finally:
        scoring.close()
