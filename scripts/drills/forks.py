"""Runs in forked processes, so that a start costs a second and any moment of one can be its last.

POSIX; one process a run, CPU, one thread.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SMALL = (
    "data.prompts_per_step=2",
    "data.samples_per_prompt=2",
    "sampler.steps=3",
    "sampler.window.size=1",
    "train.micro_batch=4",
    "train.updates_per_step=1",
    "train.save_every=2",
    "train.keep=2",
    "model.ema.decay=0.9",
    "prior=moving_average",
    "trust=ras",
    "tracker.samples_every=0",
    "engine.device=cpu",
    "threads=1",
    "doctor=off",
)
LIMIT = 900.0  # seconds that one process may take


@dataclass
class Kill:
    """One SIGKILL: when (seconds after the start), whether a hidden folder lay there, the newest step."""

    after: float
    partial: bool
    step: int


class Fork:
    """A process that starts or resumes a run; its words go into a log beside the folder."""

    def __init__(self, run: Path, words: list[str]) -> None:
        self.code: int | None = None
        self.number = os.fork()
        if self.number == 0:
            os._exit(_child(run, words))

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether it ends within so many seconds; then its exit code is known."""
        end = time.monotonic() + seconds
        while self.code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(0.005)
        return True

    def kill(self) -> None:
        """As a crash would."""
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)


class Trials:
    """Runs of one configuration, one folder each."""

    def __init__(self, folder: Path, words: list[str], steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.words = [*SMALL, f"train.steps={steps}", *words]

    def start(self, run: Path) -> Fork:
        """Start a run, or resume it where it can go on."""
        return Fork(run, [*self.words, f"{'resume' if self.resumable(run) else 'run_dir'}={run}"])

    def finish(self, run: Path) -> float:
        """Run to the end without a kill; seconds. Raises RuntimeError when it fails."""
        start = time.monotonic()
        fork = self.start(run)
        if not fork.ended(LIMIT):
            fork.kill()
            raise RuntimeError(f"{run} did not end in {LIMIT:.0f} s; its log is {run}.log")
        if fork.code:
            log = run.with_suffix(".log").read_text()
            raise RuntimeError(f"{run} ended with {fork.code}:\n{log[-3000:]}")
        return time.monotonic() - start

    def resumable(self, run: Path) -> bool:
        """Whether a run can go on; one that was killed before its first checkpoint starts anew."""
        from rlvis.checkpoints.resume import has_checkpoint

        if (run / "config.yaml").is_file() and has_checkpoint(run):
            return True
        shutil.rmtree(run, ignore_errors=True)
        return False

    def kill(self, run: Path, when: Callable[[float], bool]) -> Kill | None:
        """Start or resume, and kill once `when(seconds)` says so; None where the run ended before."""
        fork = self.start(run)
        start = time.monotonic()
        while not when(time.monotonic() - start):
            if fork.ended():
                return None
            time.sleep(0.001)
        fork.kill()
        partial = any(run.glob("checkpoints/.partial_*"))
        steps = [int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*")]
        return Kill(time.monotonic() - start, partial, max(steps, default=0))


def import_all() -> None:
    """Everything heavy, once, before any fork; nothing that starts a thread."""
    import torch

    from rlvis.runtime.deepspeed_setup import quiet_deepspeed

    torch.set_num_threads(1)
    quiet_deepspeed("cpu")
    import diffusers
    import transformers

    from rlvis.cli.one_run import checked
    from rlvis.compose.command import compose
    from rlvis.training import loop

    assert all((compose, checked, loop, diffusers.AutoencoderKL, transformers.AutoTokenizer))


def _child(run: Path, words: list[str]) -> int:
    """What a forked process does: one run."""
    from rlvis.cli.one_run import checked
    from rlvis.compose.command import compose
    from rlvis.training.loop import train

    log = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, force=True)
    try:
        return train(checked(compose(words)), words).exit_code
    except BaseException:
        traceback.print_exc()
        return 1
