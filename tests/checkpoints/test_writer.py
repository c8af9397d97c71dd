"""The background writer: every rank's files in one sealed folder, failures told and survived."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import writing
from rlvis.checkpoints import disk, files, writer
from rlvis.checkpoints.writer import Job, Writer
from rlvis.runtime import snapshot
from rlvis.runtime.dist import World


def part(name: str, content: bytes = b"weights") -> Callable[[Path], list[str]]:
    """What writes one file."""

    def write(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return [name]

    return write


def job(parts: Callable[[Path], list[str]], step: int = 2) -> Job:
    return Job(step, parts, lambda: {"step": step})


def failing(folder: Path) -> list[str]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def ranks(tmp_path: Path) -> list[Writer]:
    """The writers of two ranks, here in one process: they talk through files only."""
    (tmp_path / "config.yaml").touch()
    return [Writer(tmp_path, World(rank, 2), keep=2) for rank in (0, 1)]


def saved(writer: Writer, parts: Callable[[Path], list[str]], step: int = 2) -> Job:
    """One whole save of a run of one process."""
    assert writer.prepare(step) is None
    writer.begin(job(parts, step))
    done = writer.settle()
    assert done is not None
    return done


def test_the_files_of_all_ranks_end_in_one_whole_folder(tmp_path: Path, ranks: list[Writer]) -> None:
    assert ranks[0].prepare(2) is None
    for rank, one in enumerate(ranks):
        one.begin(job(part(f"shard_{rank}")))
    for one in reversed(ranks):
        done = one.settle()
        assert done is not None
        assert done.error is None
        assert done.seconds > 0
    folder = files.choose(tmp_path)
    assert sorted(files.sums(folder)) == ["meta.json", "shard_0", "shard_1"]
    assert not list(folder.glob(".*"))
    assert files.meta(folder)["bytes"] == 14
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000002\n"


def test_a_rank_that_fails_is_named_and_nothing_is_left(
    tmp_path: Path, ranks: list[Writer], caplog: pytest.LogCaptureFixture
) -> None:
    assert ranks[0].prepare(2) is None
    ranks[0].begin(job(part("shard_0")))
    ranks[1].begin(job(failing))
    done = [one.settle() for one in reversed(ranks)]
    assert all(one is not None and one.error is not None for one in done)
    assert "rank 1 could not write its part: OSError: [Errno 28] No space left on device" in caplog.text
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_rank_that_never_writes_is_waited_for_and_named(
    tmp_path: Path, ranks: list[Writer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    assert ranks[0].prepare(2) is None
    ranks[0].begin(job(part("shard_0")))
    done = ranks[0].settle()
    assert done is not None
    assert isinstance(done.error, TimeoutError)
    assert "ranks 1 of 2 had not written their parts after 0 s" in caplog.text


def test_the_way_out_of_an_exception_waits_for_the_write(tmp_path: Path) -> None:
    one = Writer(tmp_path, World(), keep=2)
    go = threading.Event()

    def slow(folder: Path) -> list[str]:
        go.wait(10)
        return part("weights")(folder)

    assert one.prepare(2) is None
    one.begin(job(slow))
    threading.Timer(0.1, go.set).start()
    start = time.monotonic()
    one.close()
    assert time.monotonic() - start > 0.05
    assert files.choose(tmp_path).name == "step_000002"


def test_what_is_written_is_the_snapshot_and_not_what_training_made_of_it(tmp_path: Path) -> None:
    weights = {"w": torch.zeros(3), "nested": [torch.ones(2), ("x", {"y": torch.zeros(1)})], "n": 4}
    taken = {"engine/a.pt": snapshot.copied(weights)}
    weights["w"].add_(1)
    one = Writer(tmp_path, World(), keep=2)
    assert saved(one, lambda folder: snapshot.write(taken, folder)).error is None
    content = snapshot.read(files.choose(tmp_path) / "engine" / "a.pt")
    assert torch.equal(content["w"], torch.zeros(3))
    assert content["n"] == 4
    assert torch.equal(content["nested"][1][1]["y"], torch.zeros(1))


def test_only_deepspeeds_own_classes_are_read(tmp_path: Path) -> None:
    torch.save({"x": threading.Barrier}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"asks for threading\.Barrier"):
        snapshot.read(tmp_path / "a.pt")
    torch.save({"x": json.loads}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"asks for json\.loads"):
        snapshot.read(tmp_path / "b.pt")


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_older_ones_says_why_and_is_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A real write that the kernel cuts off in the middle of torch's file."""
    one = Writer(tmp_path, World(), keep=1)
    big = {"engine/a.pt": {"w": torch.zeros(100_000)}}
    assert saved(one, lambda folder: snapshot.write(big, folder), 2).error is None
    with small_files(50_000):
        failed = saved(one, lambda folder: snapshot.write(big, folder), 4)
    assert isinstance(failed.error, OSError)
    assert failed.error.errno == errno.EFBIG
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["latest", "step_000002"]
    message = caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.ERROR
    for word in (
        "step 4",
        "File too large",
        "GiB free",
        "step_000002 is still the newest whole",
        "training goes on",
    ):
        assert word in message
    assert saved(one, lambda folder: snapshot.write(big, folder), 6).error is None
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["latest", "step_000006"]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), MemoryError()])
def test_a_crash_of_the_thread_is_a_failed_write(tmp_path: Path, error: BaseException) -> None:
    def crash(folder: Path) -> Any:
        raise error

    one = Writer(tmp_path, World(), keep=2)
    assert saved(one, crash).error is error
    assert saved(one, part("weights"), 4).error is None


def test_a_folder_removed_under_the_writer(tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    run.mkdir()
    one = Writer(run, World(), keep=2)

    def gone(folder: Path) -> list[str]:
        shutil.rmtree(run / "checkpoints")
        return part("weights")(folder)

    assert isinstance(saved(one, gone).error, FileNotFoundError)
    assert saved(one, part("weights"), 4).error is None  # the folder is made anew
    shutil.rmtree(run)
    assert "FileNotFoundError" in str(one.prepare(6))
    assert not run.exists()


def test_lines_of_the_run_are_synced_before_the_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    order: list[str] = []
    sync, publish = writing.sync_path, disk.publish
    monkeypatch.setattr(writing, "sync_path", lambda path: (order.append(path.name), sync(path)))
    monkeypatch.setattr(disk, "publish", lambda a, b: (order.append("publish"), publish(a, b)))
    assert saved(Writer(tmp_path, World(), keep=2), part("weights")).error is None
    assert order.index("metrics.jsonl") < order.index("publish")
