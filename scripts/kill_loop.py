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
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drills.forks import Trials, import_all

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).parents[1]))

CLOCKS = re.compile(r"^(time|throughput|memory|checkpoint)/|/latency$")


def main() -> int:
    """Run the trials, print a table; 0 when all ended alike."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides of the small run")
    options = parser.parse_args()
    import_all()
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
    wanted = traces_of(trials.folder / "unkilled")
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
            odd = differing(wanted, traces_of(run))
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
    there: list[float] = []  # since when

    def now(seconds: float) -> bool:
        if not there and path.exists():
            there.append(seconds)
        return bool(there) and seconds >= there[0] + delay

    return now


def _after(seconds: float) -> Callable[[float], bool]:
    return lambda passed: passed >= seconds


def traces_of(run: Path) -> dict[str, Any]:
    """What two runs must share: exported tensors, the state in the last checkpoint, metrics by line."""
    traces: dict[str, Any] = {}
    for path in sorted((run / "model").rglob("*.safetensors")):
        traces[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    last = max(run.glob("checkpoints/step_*"))
    for name in ("ema.safetensors", "memory/prior.safetensors", "memory/history.safetensors"):
        traces[f"{last.name}/{name}"] = hashlib.sha256((last / name).read_bytes()).hexdigest()
    engine = next((last / "engine").glob("*model_states.pt"))
    traces[f"{last.name}/engine"] = hashlib.sha256(engine.read_bytes()).hexdigest()
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        row = json.loads(line)
        traces[f"metrics line {number}"] = {k: v for k, v in row.items() if not CLOCKS.search(k)}
    return traces


def differing(wanted: dict[str, Any], traces: dict[str, Any]) -> list[str]:
    """Names of the traces that are not equal."""
    return [name for name in {**wanted, **traces} if wanted.get(name) != traces.get(name)]


if __name__ == "__main__":
    sys.exit(main())
