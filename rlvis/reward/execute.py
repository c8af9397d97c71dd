"""When scoring happens: at once, or in a thread while the next shard is rolled out.

Unusual: at most one job runs and none waits, so that decoded frames of two shards exist at a time (the one
being scored and the one being rolled out) however slow the scorers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from rlvis.schema import Executor

T = TypeVar("T")


class Scoring:
    """Takes jobs, and runs them in order: at once, or in a `pool` of one thread. busy: seconds they took."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self.pool, self.busy = pool, 0.0
        self._last: Future[Any] = Future()
        self._last.set_result(None)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run a job, or begin it once the one before has ended; raises what that one raised."""
        self._last.result()
        if self.pool is not None:
            future = self.pool.submit(_as_here(self._timed), job)
        else:
            future = Future()
            future.set_result(self._timed(job))
        self._last = future
        return future

    def _timed(self, job: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return job()
        finally:
            self.busy += time.perf_counter() - start


def _as_here(call: Callable[[Callable[[], T]], T]) -> Callable[[Callable[[], T]], T]:
    """`call` under this thread's number of threads and GPU: torch keeps both for each thread, and the default
    of a new one is another GPU, other bits.
    """
    threads, gpu = torch.get_num_threads(), torch.cuda
    is_initialized: Callable[[], bool] = gpu.is_initialized
    device = gpu.current_device() if is_initialized() else None

    def run(job: Callable[[], T]) -> T:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if device is not None:
            gpu.set_device(device)
        return call(job)

    return run


@contextmanager
def opened(executor: Executor) -> Iterator[Scoring]:
    """The way to score that a configuration names. At the end of the block what has not begun is dropped, and
    a job that runs is not waited for.
    """
    pool = None if executor is Executor.inline else ThreadPoolExecutor(1, thread_name_prefix="score")
    try:
        yield Scoring(pool)
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
