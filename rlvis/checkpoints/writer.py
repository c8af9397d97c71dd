"""A background thread that makes a checkpoint folder out of a snapshot, while training goes on.

Every rank's thread writes that rank's files and a marker with their sums; the leading rank's thread waits for
all markers, seals the folder, renames it, points `latest` at it and prunes. Threads of different ranks talk
through files only: a collective would get in between those of training. One write is in flight at a time.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvis import writing
from rlvis.checkpoints import disk, files
from rlvis.runtime import dist
from rlvis.runtime.dist import World

log = logging.getLogger(__name__)

PATIENCE = 1800.0  # seconds that the leading rank waits for the files of the others
LAST_PATIENCE = 60.0  # the same once the run is ending by an exception


@dataclass
class Job:
    """One write: parts(folder) writes this rank's files and returns their names; meta() is for meta.json."""

    step: int
    parts: Callable[[Path], list[str]]
    meta: Callable[[], dict[str, Any]]
    began: float = field(default_factory=time.perf_counter)
    deadline: float = 0.0
    seconds: float = 0.0
    error: BaseException | None = None
    written: threading.Event = field(default_factory=threading.Event)  # this rank's own files, or failed
    stop: threading.Event = field(default_factory=threading.Event)  # another rank failed


class Writer:
    """Writes the checkpoints of one run, one after the other."""

    def __init__(self, run_dir: Path, world: World, keep: int) -> None:
        self.run_dir, self.world, self.keep = run_dir, world, keep
        self.job: Job | None = None
        self.thread: threading.Thread | None = None

    def prepare(self, step: int) -> str | None:
        """Make the hidden folder of a step, on the leading rank, and tell all what is in the way; a
        collective.
        """
        fault: str | None = None
        if self.world.is_main:
            try:
                files.root(self.run_dir).mkdir(exist_ok=True)  # not the run folder: nobody may make it anew
                disk.tidy(self.run_dir)
                self._partial(step).mkdir()
            except OSError as error:
                fault = f"{type(error).__name__}: {error}"
                self._report(step, fault)
        agreed: str | None = dist.broadcast_object(fault)
        return agreed

    def begin(self, job: Job) -> None:
        """Write in the background; the folder was prepared and nothing else is in flight."""
        assert self.job is None, "a checkpoint is still being written"
        job.deadline = time.monotonic() + PATIENCE
        self.job = job
        self.thread = threading.Thread(target=self._work, args=(job,), name="checkpoint", daemon=True)
        self.thread.start()

    def settle(self) -> Job | None:
        """Wait for the write in flight, if there is one, and return it; `error` is set on every rank when it
        failed on any. A collective.
        """
        job, thread = self.job, self.thread
        if job is None or thread is None:
            return None
        job.written.wait()
        if not dist.all_true(job.error is None):
            job.stop.set()
        thread.join()
        self.job = self.thread = None
        failed = dist.any_true(job.error is not None)
        if failed and job.error is None:
            job.error = RuntimeError("another process could not write its part")
        return job

    def close(self) -> None:
        """The same on the way out of an exception, where the other ranks may be gone: no collective, and the
        patience of a minute.
        """
        if self.job is not None and self.thread is not None:
            self.job.deadline = min(self.job.deadline, time.monotonic() + LAST_PATIENCE)
            self.thread.join()
        self.job = self.thread = None

    def _partial(self, step: int) -> Path:
        return files.root(self.run_dir) / f".partial_{files.name(step)}"

    def _work(self, job: Job) -> None:
        partial = self._partial(job.step)
        try:
            self._write_own(job, partial)
            job.written.set()
            if self.world.is_main:
                self._finish(job, partial)
        except BaseException as error:  # a thread has nobody to raise to; `settle` tells the run
            job.error = error
            job.written.set()
            if self.world.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                self._report(job.step, f"{type(error).__name__}: {error}")
            else:
                self._mark(partial / f".failed_rank{self.world.rank}", f"{type(error).__name__}: {error}")
        finally:
            job.seconds = time.perf_counter() - job.began

    def _write_own(self, job: Job, partial: Path) -> None:
        listed = {file: disk.checksum(partial / file) for file in job.parts(partial)}
        self._mark(partial / f".done_rank{self.world.rank}", json.dumps(listed))

    def _mark(self, path: Path, text: str) -> None:
        """A marker appears whole or not at all."""
        aside = path.with_name(f".aside_rank{self.world.rank}")
        try:
            disk.put(aside, text)
            aside.rename(path)
        except OSError as error:
            if path.name.startswith(".done"):
                raise
            if not isinstance(error, FileNotFoundError):  # else the leading rank has given up already
                log.warning(
                    "the failure of rank %d could not be left in %s: %s", self.world.rank, path, error
                )

    def _finish(self, job: Job, partial: Path) -> None:
        """What the leading rank does once all have written."""
        listed = self._gather_parts(job, partial)
        for marker in partial.glob(".done_rank*"):
            marker.unlink()
        disk.seal(partial, listed, job.meta())
        for lines in self.run_dir.glob("*.jsonl"):
            writing.sync_path(lines)  # no checkpoint outlives the metrics of its steps
        final = files.root(self.run_dir) / files.name(job.step)
        disk.publish(partial, final)
        disk.point_latest(final)
        for old in files.outdated(self.run_dir, self.keep):
            try:
                disk.remove(old)
            except OSError as error:
                log.warning("the old checkpoint %s could not be removed: %s", old, error)

    def _gather_parts(self, job: Job, partial: Path) -> dict[str, dict[str, Any]]:
        """The sums of every rank's files, once all are there."""
        listed: dict[str, dict[str, Any]] = {}
        waiting = set(range(self.world.size))
        while True:
            for rank in sorted(waiting):
                failed, done = (partial / f".{word}_rank{rank}" for word in ("failed", "done"))
                if failed.is_file():
                    raise OSError(f"rank {rank} could not write its part: {failed.read_text()}")
                if done.is_file():
                    listed |= json.loads(done.read_text())
                    waiting.discard(rank)
            if not waiting:
                return listed
            ranks = ", ".join(map(str, sorted(waiting)))
            if job.stop.wait(0.02):
                raise OSError(f"ranks {ranks} could not write their parts; their own logs say why")
            if time.monotonic() > job.deadline:
                raise TimeoutError(
                    f"ranks {ranks} of {self.world.size} had not written their parts after "
                    f"{time.perf_counter() - job.began:.0f} s: they are gone, or do not share {self.run_dir}"
                )

    def _report(self, step: int, why: str) -> None:
        """What could not be written, the numbers, what is left, and what to do."""
        try:
            checkpoints = files.whole(self.run_dir)
            free = f"{shutil.disk_usage(self.run_dir).free / 2**30:.2f} GiB free"
        except OSError:
            checkpoints, free = [], "its disk cannot be asked"
        left = (
            f"{checkpoints[-1].name} is still the newest whole one"
            if checkpoints
            else "there is no whole one"
        )
        log.error(
            "the checkpoint of step %d was not written to %s: %s (%s). %s; older ones were kept and training "
            "goes on. Make room, or move the run: the next checkpoint tries again",
            *(step, files.root(self.run_dir), why, free, left),
        )
