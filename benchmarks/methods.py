"""Methods beside each other on the embedded default: held-out accuracy and score after 60 steps, over seeds.

    python -m benchmarks.methods --arms grpo vipo --seeds 0 1 2 3      # adds to results/methods.jsonl
    python -m benchmarks.methods --table                               # results/methods.md from it

A run is one of the command line in this process, without doctor, sentinels and sheets: 48 held-out prompts, 4
samples each, the same noise for all runs, 8 steps of the ODE. Rows that are there already are not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rlvis.compose.command import compose

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "methods.jsonl"
BASE = [
    *("doctor=off", "sentinels.action=off", "tracker.samples_every=0", "threads=1"),
    *("eval=shapes", "eval.every=1000", "eval.samples=4", "eval.steps=8"),
]
VIPO = ["advantage=vipo", "advantage.map.backbone=tiny"]
ARMS: dict[str, list[str]] = {
    "grpo": [],
    "grpo, clip 3e-4": ["advantage.clip_range=3e-4"],
    "vipo": VIPO,
    "vipo, clip 3e-4": [*VIPO, "advantage.clip_range=3e-4"],
    "vipo, clip at positions": [*VIPO, "advantage.ratio_scope=position"],
    "vipo, clip 8e-4 at positions": [*VIPO, "advantage.ratio_scope=position", "advantage.clip_range=8e-4"],
    "bpgo": ["advantage=bpgo"],
    "bpgo_vipo": ["advantage=bpgo_vipo", "advantage.map.backbone=tiny"],
}
MEANS = ("clip/fraction_high", "clip/fraction_low", "kl/approx", "update/grad_norm")


def run(arm: str, seed: int) -> dict[str, Any]:
    """One run, as a row of the table."""
    from rlvis.training.loop import train

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = compose([*BASE, *ARMS[arm], f"seed={seed}", f"run_dir={folder}/run"]).typed()
        train(config, ["benchmarks.methods"])
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward/mean" in line]
    judged = [line for line in lines if "eval/accuracy" in line]
    return {
        "arm": arm,
        "words": " ".join(ARMS[arm]),
        "seed": seed,
        "accuracy": [line["eval/accuracy"] for line in judged],
        "score": [line["eval/score"] for line in judged],
        **{key: float(np.mean([line[key] for line in steps])) for key in MEANS},
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Arms by measures; differences to grpo are paired by seed, with a bootstrap interval from 5 seeds on."""
    by = {(row["arm"], row["seed"]): row for row in rows}
    lines = [
        "| method | seeds | accuracy | score | accuracy over grpo | 95 % | clipped a side | KL | gradient |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    base = [row["accuracy"][0] for row in rows]
    lines.append(f"| before training | {len(base)} | {np.mean(base):.3f} | | | | | | |")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        seeds = [row["seed"] for row in own if ("grpo", row["seed"]) in by]
        gaps = [by[arm, s]["accuracy"][-1] - by["grpo", s]["accuracy"][-1] for s in seeds]
        clipped = np.mean([(r["clip/fraction_high"] + r["clip/fraction_low"]) / 2 for r in own])
        cells = [
            arm,
            ", ".join(str(row["seed"]) for row in own),
            f"{np.mean([row['accuracy'][-1] for row in own]):.3f}",
            f"{np.mean([row['score'][-1] for row in own]):.3f}",
            f"{np.mean(gaps):+.3f}" if gaps and arm != "grpo" else "",
            _interval(gaps) if arm != "grpo" else "",
            f"{clipped:.4f}",
            f"{np.mean([row['kl/approx'] for row in own]):.1e}",
            f"{np.mean([row['update/grad_norm'] for row in own]):.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(gaps: list[float]) -> str:
    if len(gaps) < 5:
        return "too few seeds"
    drawn = np.random.default_rng(0).choice(gaps, (10000, len(gaps))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{low:+.3f} .. {high:+.3f}"


def main() -> None:
    """Run what is missing, or tabulate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    logging.getLogger("rlvis").setLevel(logging.WARNING)
    for seed in () if chosen.table else chosen.seeds:
        for arm in chosen.arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in _rows()):
                continue
            row = run(arm, seed)
            with ROWS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(arm, seed, row["accuracy"][-1], row["seconds"], flush=True)
    (RESULTS / "methods.md").write_text(table(_rows()), encoding="utf-8")
    print(table(_rows()))


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


if __name__ == "__main__":
    main()
