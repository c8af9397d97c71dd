"""Jobs run at once or beside the caller: results in order, exceptions surface, two shards at most."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial

import pytest
import torch

from rlvis.reward import execute
from rlvis.schema import Executor


def test_every_executor_but_inline_has_a_thread() -> None:
    for executor in Executor:
        with execute.opened(executor) as scoring:
            assert (scoring.pool is None) == (executor is Executor.inline)
            where = scoring.submit(threading.current_thread).result()
        assert (where is threading.current_thread()) == (executor is Executor.inline)


@pytest.mark.parametrize("executor", [Executor.inline, Executor.thread])
def test_results_are_of_their_own_job_and_the_time_is_counted(executor: Executor) -> None:
    with execute.opened(executor) as scoring:
        pending = [scoring.submit(partial(pow, i, 2)) for i in range(5)]
        assert [job.result() for job in pending] == [0, 1, 4, 9, 16]
        assert scoring.busy > 0


def test_a_thread_works_while_the_caller_does() -> None:
    go, events = threading.Event(), []
    with execute.opened(Executor.thread) as scoring:
        job = scoring.submit(lambda: (go.wait(5), events.append("scored")))
        events.append("rolled out")
        go.set()
        job.result()
    assert events == ["rolled out", "scored"]


@pytest.mark.parametrize("executor", [Executor.inline, Executor.thread])
def test_what_a_job_raises_reaches_the_caller(executor: Executor) -> None:
    def broken() -> None:
        raise AssertionError("a mistake of ours")

    with pytest.raises(AssertionError, match="a mistake of ours"), execute.opened(executor) as scoring:
        scoring.submit(broken).result()


def test_the_next_shard_waits_for_the_one_before() -> None:
    """So the frames of two shards exist: the one that is scored and the one that was rolled out meanwhile."""
    alive, most = weakref.WeakSet(), []

    class Frames:
        """Stands for the media of a shard."""

    def job(frames: Frames) -> None:
        most.append(len(alive))

    with execute.opened(Executor.thread) as scoring:
        for _ in range(6):
            frames = Frames()
            alive.add(frames)
            pending = scoring.submit(partial(job, frames))
            del frames
        pending.result()
    assert max(most) <= 2
    gc.collect()
    assert len(alive) == 0


def test_a_failure_stops_what_has_not_begun() -> None:
    def broken() -> None:
        raise RuntimeError("no")

    ran: list[int] = []

    def two() -> None:
        with execute.opened(Executor.thread) as scoring:
            scoring.submit(broken)
            scoring.submit(lambda: ran.append(1))

    with pytest.raises(RuntimeError, match="no"):
        two()
    assert ran == []


def test_torch_counts_as_many_threads_there_as_here() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with execute.opened(Executor.thread) as scoring:
            assert scoring.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
