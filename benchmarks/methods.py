"""Methods beside each other on the embedded policies: held-out accuracy after a run, over learning rates,
updates a step, trust regions and seeds.

    python -m benchmarks.methods --study grid --part 0/2      # adds to results/methods.jsonl; also --part 1/2
    python -m benchmarks.methods --table                      # results/methods.md from it

`grid` searches on a seed that `seeds` does not see; `seeds` runs chosen arms on 8; `video` is on clips.
A run is one of the command line in this process, without doctor, sentinels and sheets: held-out prompts, 4
samples each, the same noise for all runs, deterministic sampler. Rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import kl_mask
from rlvis.compose.command import compose
from rlvis.schema import DEFAULT_CLIP_RANGE

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "methods.jsonl"
BASE = [
    *("doctor=off", "sentinels.action=off", "tracker.samples_every=0", "threads=1"),
    *("eval=shapes", "eval.every=1000", "eval.samples=4", "eval.steps=8"),
]
POSITION = "advantage.ratio_scope=position"
NO_CLIP = "advantage.clip_range=0.5"
VIDEO = ["experiment=tiny_video", "train.steps=30"]


def words(
    method: str, lr: float = 1, updates: int = 2, clip: float | None = None, scope: str = "sample"
) -> list[str]:
    """The command line of an arm. lr: as a multiple of the default. clip: None is what null means."""
    said = [] if method == "grpo" else [f"advantage={method}"]
    said += [f"optim.lr={lr * 2e-4:g}"] if lr != 1 else []
    said += [f"train.updates_per_step={updates}"] if updates != 2 else []
    said += [f"advantage.clip_range={clip:g}"] if clip is not None else []
    return said + ([f"advantage.ratio_scope={scope}"] if scope != "sample" else [])


def masked(method: str, limit: float) -> list[str]:
    """An arm whose trust region is a mask by the KL of each row's step (benchmarks/kl_mask.py), no clip."""
    return [*words(method, clip=0.5), f"{kl_mask.WORD}{limit:g}"]


METHODS = ("grpo", "vipo")
CLIPS = (1e-4, 3e-4, 1e-3, 0.5)
MASKS = (1e-5, 3e-5, 1e-4)
STUDIES: dict[str, tuple[list[list[str]], tuple[int, ...]]] = {
    "grid": (
        [words(m, clip=c) for c in CLIPS for m in METHODS]
        + [words(m, lr, 1) for lr in (1, 3, 10) for m in METHODS]
        + [masked(m, limit) for limit in MASKS for m in METHODS]
        + [words("vipo", clip=c, scope="position") for c in (1.5e-3, 4e-3, 1e-2)]
        + [words("vipo", clip=c, scope="pooled") for c in (3e-4, 1e-3)]
        + [words(m, 3, 2, c) for c in (1e-4, 1e-3, 0.5) for m in METHODS]
        + [words(m, 1, 4, c) for c in (1e-4, 1e-3, 0.5) for m in METHODS]
        + [words(m, 3, 4, c) for c in (1e-4, 0.5) for m in METHODS]
        + [words(m, 10, 2, 1e-4) for m in METHODS],
        (100,),
    ),
    "seeds": (
        [words(m, clip=3e-4) for m in ("bpgo", "bpgo_vipo")]
        + [words(m, 1, 1) for m in METHODS]
        + [words("vipo", clip=1e-3)]
        + [words("grpo", clip=0.5)],
        (0, 1, 2, 3, 4),
    ),
    "video": (
        [[*VIDEO, *words(m, clip=c)] for c in (3e-4, 1e-3, 1e-4) for m in METHODS]
        + [[*VIDEO, *words("vipo", clip=c, scope="position")] for c in (None, 1e-2)],
        (0, 1),
    ),
}
GRID = 100  # seeds from here on chose the arms, and count in no difference
MEANS = ("clip/fraction_high", "clip/fraction_low", "kl/approx", "update/grad_norm", "reward/mean")


def run(said: list[str], seed: int) -> dict[str, Any]:
    """One run, as a row of the table."""
    from rlvis.training.loop import train

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _region(said) as typed:
        config = compose([*BASE, *typed, f"seed={seed}", f"run_dir={folder}/run"]).typed()
        train(config, ["benchmarks.methods"])
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward/mean" in line]
    judged = [line for line in lines if "eval/accuracy" in line]
    return {
        "words": " ".join(said),
        "seed": seed,
        "accuracy": [line["eval/accuracy"] for line in judged],
        "score": [line["eval/score"] for line in judged],
        **{key: float(np.mean([line[key] for line in steps])) for key in MEANS},
        "seconds": round(time.perf_counter() - start, 1),
    }


@contextlib.contextmanager
def _region(said: list[str]) -> Iterator[list[str]]:
    """What is typed of an arm's words, with the mask by KL in place where they name it."""
    limits = [float(word.removeprefix(kl_mask.WORD)) for word in said if word.startswith(kl_mask.WORD)]
    typed = [word for word in said if not word.startswith(kl_mask.WORD)]
    if not limits:
        yield typed
        return
    with mock.patch("rlvis.update.stage.LossTerm", kl_mask.of(limits[0])):
        yield typed


def table(rows: list[dict[str, Any]]) -> str:
    """Arms by measures; differences to the video's or image's grpo are paired by seed, with a bootstrap
    interval from 5 seeds on.
    """
    by = {(row["words"], row["seed"]): row["accuracy"][-1] for row in rows}
    lines = ["| arm | seeds | accuracy | score | over grpo at 3e-4 | 95 % | clipped a side | KL | gradient |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for video in (False, True):
        kind = [row for row in rows if row["words"].startswith(VIDEO[0]) == video]
        if not kind:
            continue
        base = {row["seed"]: row["accuracy"][0] for row in kind}
        name = "clips" if video else "pictures"
        lines.append(f"| {name}, before training | | {np.mean(list(base.values())):.3f} | | | | | | |")
        control = " ".join([*VIDEO * video, *words("grpo", clip=DEFAULT_CLIP_RANGE)])
        for said in dict.fromkeys(row["words"] for row in kind):
            own = [row for row in kind if row["words"] == said]
            own = [row for row in own if row["seed"] < GRID] or own
            seeds = sorted(row["seed"] for row in own)
            gaps = [
                by[said, s] - by[control, s]
                for s in seeds
                if (control, s) in by and said != control and s < GRID
            ]
            clipped = np.mean([(r["clip/fraction_high"] + r["clip/fraction_low"]) / 2 for r in own])
            cells = [
                f"`{said or 'advantage=grpo'}`",
                f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0]),
                f"{np.mean([row['accuracy'][-1] for row in own]):.3f}",
                f"{np.mean([row['score'][-1] for row in own]):.3f}",
                f"{np.mean(gaps):+.3f}" if gaps else "",
                _interval(gaps),
                f"{clipped:.4f}",
                f"{np.mean([row['kl/approx'] for row in own]):.1e}",
                f"{np.mean([row['update/grad_norm'] for row in own]):.3f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(gaps: list[float]) -> str:
    if len(gaps) < 5:
        return ""
    drawn = np.random.default_rng(0).choice(gaps, (10000, len(gaps))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{low:+.3f} .. {high:+.3f}"


def main() -> None:
    """Run what is missing, or tabulate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=list(STUDIES))
    parser.add_argument("--part", default="0/1", help="i/n: every n-th run, beginning with the i-th")
    parser.add_argument("--seeds", nargs="+", type=int, help="others than the study's own")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    if chosen.study:
        logging.getLogger("rlvis").setLevel(logging.WARNING)
        arms, seeds = STUDIES[chosen.study]
        part, parts = map(int, chosen.part.split("/"))
        jobs = [(arm, seed) for seed in chosen.seeds or seeds for arm in arms]
        for arm, seed in jobs[part::parts]:
            if any((row["words"], row["seed"]) == (" ".join(arm), seed) for row in _rows(chosen.rows)):
                continue
            row = run(arm, seed)
            with chosen.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row["words"], seed, row["accuracy"], row["seconds"], flush=True)
    if chosen.table:
        (RESULTS / "methods.md").write_text(table(_rows(chosen.rows)), encoding="utf-8")
        print(table(_rows(chosen.rows)))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
