"""Do the defaults train, and stay trained? Held-out evaluation of whole runs of the command line, over seeds.

    python -m benchmarks.defaults image                  # 5 seeds for 3 times the budget, and 5 with sign -1
    python -m benchmarks.defaults video --seeds 3 --jobs 1

Every seed is one run of `python train.py` for three times the steps of its configuration, judged at 0, 1, 2
and 3 times; rises are paired with the same seed's base (equal prompts and noise for all). The sign-flipped
control stops at once the budget. Intervals are Student's over seeds. Writes results/defaults_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from benchmarks import environment
from rlvis.compose.command import compose
from rlvis.evaluation import results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
# What a run is called, its words, and samples of each held-out prompt that make at least 512.
RUNS: dict[str, tuple[list[str], int]] = {
    "image": ([], 10),
    "video": (["experiment=tiny_video", "eval.steps=20"], 9),  # Wan's 50 steps would outlast the training
    "i2v": (["experiment=tiny_i2v", "eval.steps=20"], 9),
}
MEASURES = ("accuracy", "score")
TIMES = 3  # of the budget, for what comes after the rise


def run(name: str, seed: int, sign: int, steps: int, more: Sequence[str]) -> dict[str, Any]:
    """One run; its evaluations by multiple of the budget of `steps`, and its seconds of RL within that."""
    words, samples = RUNS[name]
    folder = ROOT / "outputs" / "defaults" / f"{name}_{seed}_{sign:+d}"
    done = folder / "eval" / "summary.json"
    times = TIMES if sign > 0 else 1
    if not done.exists() or max(e["step"] for e in results.read(done.parent)) < times * steps:
        control = ["eval=shapes", "eval.prompts=null", f"eval.samples={samples}", f"eval.every={steps}"]
        control += [f"train.steps={times * steps}", f"seed={seed}", f"advantage.sign={sign}"]
        command = [
            sys.executable,
            "train.py",
            *words,
            *control,
            f"run_dir={folder}",
            "tracker.samples_every=0",
        ]
        process = subprocess.run(
            [*command, "engine.device=cpu", *more],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise RuntimeError(
                f"{' '.join(command)} ended with {process.returncode}:\n{process.stderr[-2000:]}"
            )
    curve = {e["step"] // steps: e for e in results.read(done.parent)}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(line["time/step"] for line in lines if "time/step" in line and line["step"] <= steps)
    return {
        "seed": seed,
        "seconds": seconds,
        "samples": curve[0]["samples"]["eval/accuracy"],
        **{m: [curve[t]["mean"][f"eval/{m}"] for t in sorted(curve)] for m in MEASURES},
    }


def rise(runs: Sequence[dict[str, Any]], measure: str, at: int = 1) -> dict[str, Any]:
    """Mean over seeds of what a run gained on its base after `at` budgets, with Student's 95 % interval."""
    gains = [run[measure][at] - run[measure][0] for run in runs]
    mean = statistics.mean(gains)
    if len(gains) < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": gains}
    spread = statistics.stdev(gains) / len(gains) ** 0.5
    half = float(stats.t.ppf(0.975, len(gains) - 1)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": gains}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(RUNS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "more", nargs="*", help="further overrides of every run; the result is then not written"
    )
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    steps = compose([*RUNS[args.name][0], *args.more]).typed().train.steps  # Hydra composes one at a time
    with ThreadPoolExecutor(args.jobs) as pool:
        flipped = [pool.submit(run, args.name, seed, -1, steps, args.more) for seed in seeds]
        rising = [pool.submit(run, args.name, seed, 1, steps, args.more) for seed in seeds]
        up, down = [f.result() for f in rising], [f.result() for f in flipped]
    result = {
        "name": args.name,
        "words": [*RUNS[args.name][0], *args.more],
        "samples": up[0]["samples"],
        "steps": steps,
        "base": {m: statistics.mean(r[m][0] for r in up) for m in MEASURES},
        "seconds": statistics.median(r["seconds"] for r in up),
        "rise": {m: rise(up, m) for m in MEASURES},
        "rise_after_3_budgets": {m: rise(up, m, TIMES) for m in MEASURES},
        "rise_with_sign_flipped": {m: rise(down, m) for m in MEASURES},
        "runs": up,
        "flipped": down,
        "jobs": args.jobs,
        "environment": environment.describe(torch.device("cpu")),
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.more:
        print(text)
    else:
        (RESULTS / f"defaults_{args.name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
