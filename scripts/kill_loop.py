"""Kill a small run with SIGKILL again and again, and see whether it always ends where an unkilled one does.

    python scripts/kill_loop.py [--kills 50] [--seed 0] [--steps 12] [--folder DIR] [KEY=VALUE ...]

Each trial starts the run, kills it once (at a random moment, or while a checkpoint is being written, or right
after one was renamed; every third trial kills the resumed run as well), resumes it until it is done, and
compares exported weights, checkpoint and metrics (apart from times) with the unkilled run, bit for bit. Exit
code 1 if any differs. Processes are forked from one that has imported everything, so a start costs a second.
POSIX, one process a run, CPU, one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).parents[1]))

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
CLOCKS = re.compile(r"^(time|throughput|memory|checkpoint)/|/latency$")
LIMIT = 900.0  # seconds that one process may take


@dataclass
class Kill:
    """One SIGKILL: when (seconds after the start), whether a hidden folder lay there, the newest step."""

    after: float
    partial: bool
    step: int


class Trials:
    """Runs of one configuration, one folder each."""

    def __init__(self, folder: Path, words: list[str], steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.words = [*SMALL, f"train.steps={steps}", *words]

    def start(self, run: Path, resume: bool) -> int:
        """Fork a process that starts or resumes a run; its number."""
        number = os.fork()
        if number == 0:
            os._exit(_child(run, [*self.words, f"resume={run}" if resume else f"run_dir={run}"], resume))
        return number

    def finish(self, run: Path) -> float:
        """Run to the end without a kill; seconds. Raises RuntimeError when it fails."""
        start = time.monotonic()
        number = self.start(run, self.resumable(run))
        if not _ended(number, LIMIT):
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            raise RuntimeError(f"{run} did not end in {LIMIT:.0f} s; its log is {run}.log")
        code = os.waitstatus_to_exitcode(_codes.pop(number))
        if code:
            raise RuntimeError(f"{run} ended with {code}:\n{run.with_suffix('.log').read_text()[-3000:]}")
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
        resume = self.resumable(run)
        start = time.monotonic()
        number = self.start(run, resume)
        while not when(time.monotonic() - start):
            if _ended(number, 0):
                _codes.pop(number)
                return None
            time.sleep(0.001)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        partial = any(run.glob("checkpoints/.partial_*"))
        steps = [int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*")]
        return Kill(time.monotonic() - start, partial, max(steps, default=0))


_codes: dict[int, int] = {}


def main() -> int:
    """Run the trials, print a table; 0 when all ended alike."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides of the small run")
    options = parser.parse_args()
    _import()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        survived = _trials(Trials(folder, options.words, options.steps), options.kills, options.seed)
    print(f"survived {survived} of {options.kills} kills in {time.monotonic() - began:.0f} s")
    return 0 if survived == options.kills else 1


def _trials(trials: Trials, kills: int, seed: int) -> int:
    chance = random.Random(seed)
    duration = trials.finish(trials.folder / "unkilled")
    wanted = traces(trials.folder / "unkilled")
    print(f"unkilled: {duration:.1f} s, {len(wanted)} traces compared")
    print("trial  aim       killed after  newest  partial  resumed  result", flush=True)
    survived = done = 0
    while done < kills:
        run = trials.folder / f"trial_{done:03d}"
        aim = ("time", "partial", "time", "renamed")[done % 4]
        killed = trials.kill(run, _moment(aim, run, chance, duration, trials.steps))
        again = trials.kill(run, _after(chance.uniform(0, duration))) if done % 3 == 2 else None
        if killed is None:  # it was through before its time came
            shutil.rmtree(run, ignore_errors=True)
            continue
        try:
            trials.finish(run)
            odd = differing(wanted, traces(run))
        except (RuntimeError, OSError, ValueError) as error:
            odd = [f"{type(error).__name__}: {error}"]
        result = f"DIFFERS: {odd[0]}" if odd else "equal"
        print(
            f"{done:5}  {aim:8}  {killed.after:10.3f} s  {killed.step:6}  {killed.partial!s:7}  "
            f"{f'{again.after:5.2f} s' if again else '      -'}  {result}",
            flush=True,
        )
        survived += not odd
        done += 1
        if not odd:
            shutil.rmtree(run, ignore_errors=True)
    return survived


def _moment(
    aim: str, run: Path, chance: random.Random, duration: float, steps: int
) -> Callable[[float], bool]:
    """When to kill: at a random time; some milliseconds into the writing of one of the checkpoints; or as
    soon as one has its name.
    """
    if aim == "time":
        return _after(chance.uniform(0, duration))
    step = chance.choice(range(2, steps + 1, 2))
    path = run / "checkpoints" / (f".partial_step_{step:06d}" if aim == "partial" else f"step_{step:06d}")
    delay = chance.uniform(0, 0.05) if aim == "partial" else chance.choice((0.0, 0.002))
    seen: list[float] = []

    def now(seconds: float) -> bool:
        if not seen and path.exists():
            seen.append(seconds)
        return bool(seen) and seconds >= seen[0] + delay

    return now


def _after(seconds: float) -> Callable[[float], bool]:
    return lambda passed: passed >= seconds


def traces(run: Path) -> dict[str, Any]:
    """What two runs must share: exported tensors, the state in the last checkpoint, metrics by line."""
    found: dict[str, Any] = {}
    for path in sorted((run / "model").rglob("*.safetensors")):
        found[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    last = max(run.glob("checkpoints/step_*"))
    for name in ("ema.safetensors", "memory/prior.safetensors", "memory/history.safetensors"):
        found[f"{last.name}/{name}"] = hashlib.sha256((last / name).read_bytes()).hexdigest()
    engine = next((last / "engine").glob("*model_states.pt"))
    found[f"{last.name}/engine"] = hashlib.sha256(engine.read_bytes()).hexdigest()
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        row = json.loads(line)
        found[f"metrics line {number}"] = {k: v for k, v in row.items() if not CLOCKS.search(k)}
    return found


def differing(wanted: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """Names of the traces that are not equal."""
    return [name for name in {**wanted, **got} if wanted.get(name) != got.get(name)]


def _ended(number: int, seconds: float) -> bool:
    """Whether a child ended within so many seconds; its status is kept."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(number, os.WNOHANG)
        if pid:
            _codes[number] = status
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.005)


def _import() -> None:
    """Everything heavy, once, before any fork; nothing that starts a thread."""
    import torch

    from rlvis.runtime.engine import quiet_deepspeed

    torch.set_num_threads(1)
    quiet_deepspeed("cpu")
    import diffusers
    import transformers

    from rlvis.cli.train import checked
    from rlvis.compose.command import compose
    from rlvis.training import loop

    assert all((compose, checked, loop, diffusers.AutoencoderKL, transformers.AutoTokenizer))


def _child(run: Path, words: list[str], resume: bool) -> int:
    """What a forked process does: one run, its words into a log beside the folder."""
    from rlvis.cli.train import checked
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


if __name__ == "__main__":
    sys.exit(main())
