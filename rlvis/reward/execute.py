"""When scoring happens: at once, or in a thread while the next shard is rolled out.

Unusual: at most one job runs and none waits, so that decoded frames of two shards exist at a time (the one
being scored and the one being rolled out) however slow the scorers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from rlvis.reward.limit import as_here
from rlvis.reward.surroundings import go_beside, kept
from rlvis.schema import Executor

T = TypeVar("T")


class Scoring:
    """Takes jobs, and runs them in order: at once, or in a `pool` of one thread. began: what both threads
    share, as it was (`surroundings.kept`). busy: seconds they took.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, began: Mapping[str, Any] | None = None) -> None:
        self.pool, self.began, self.busy = pool, began or {}, 0.0
        self._last: Future[Any] = Future()
        self._last.set_result(None)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run a job, or begin it once the one before has ended; raises what that one raised."""
        self._last.result()
        if self.pool is not None:
            future = self.pool.submit(as_here(self._beside), job)
        else:
            future = Future()
            future.set_result(self._timed(job))
        self._last = future
        return future

    def _beside(self, job: Callable[[], T]) -> T:
        go_beside(self.began)
        return self._timed(job)

    def _timed(self, job: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return job()
        finally:
            self.busy += time.perf_counter() - start


@contextmanager
def opened(executor: Executor) -> Iterator[Scoring]:
    """The way to score that a configuration names. At the end of the block what has not begun is dropped, a
    job that runs is not waited for, and what a scorer beside the rollout changed for the whole process is
    put back.
    """
    if executor is Executor.inline:
        yield Scoring(None)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="score")
    with kept() as began:
        try:
            yield Scoring(pool, began)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
