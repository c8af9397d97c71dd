"""What a server costs a scorer, and what scoring beside the rollout saves.

Throughput: samples a second of a scorer through client, HTTP and server (all in this process, so that its
processor time holds everything) over the bare scorer's, in the same batches. Overlap: wall time of rollout
and scoring in real training steps, next to the longer of the two and to their sum; the scorer waits as long
as a shard's rollout takes, as one on another device would, because two cores cannot show more.

    OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m benchmarks.serving
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import environment
from benchmarks.timing import interleaved, ratio, seconds
from rlvis.compose.command import compose
from rlvis.records import PriorState, RewardHistory
from rlvis.reward.contract import Scores, Term
from rlvis.reward.scorers.clip import Clip
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.hosting import hosted
from rlvis.reward.serving.server import Service
from rlvis.runtime import dist
from rlvis.runtime.engine import quiet_deepspeed
from rlvis.schema import Executor
from rlvis.training import pipeline
from rlvis.training.assemble import assemble

RESULTS = Path(__file__).resolve().parent / "results"
GOALS = {"throughput": 0.9}
TOKEN = "benchmark-token-0123456789"
RUN = [
    "engine.device=cpu",
    "threads=1",
    "data.prompts_per_step=8",
    "data.samples_per_prompt=12",
    "train.micro_batch=8",
    "train.shard=8",
    "train.updates_per_step=1",
]


class Tower:
    """A vision tower of ViT-B/32's size (86 M), random weights: its scores mean nothing, its time does."""

    def __init__(self, layers: int = 12) -> None:
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(
            768, 12, 3072, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.patches = torch.nn.Conv2d(3, 768, 32, 32)
        self.body = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, 1, 3, Y, X], at 224 x 224."""
        pixels = F.interpolate(images[:, 0].float() / 255, size=(224, 224), mode="bilinear", antialias=True)
        value = self.body(self.patches(pixels).flatten(2).transpose(1, 2)).mean((1, 2)).double()
        return Scores(value, torch.isfinite(value))


def throughput(name: str, scorer: Any, side: int, batch: int, batches: int, repeats: int) -> dict[str, Any]:
    """One scorer, bare and served, on the same pictures in the same batches."""
    generator = torch.Generator().manual_seed(0)
    count, cpu = batch * batches, torch.device("cpu")
    images = torch.randint(0, 256, (count, 1, 3, side, side), generator=generator).to(torch.uint8)
    prompts, metadata = [f"prompt {i}" for i in range(count)], [{"row": i} for i in range(count)]

    def bare() -> Tensor:
        rows = [slice(i, i + batch) for i in range(0, count, batch)]
        return torch.cat([scorer(images[r], prompts[r], metadata[r]).value for r in rows])

    with hosted(Service([Term("judge", scorer, 1.0)], TOKEN).application()) as url:
        client = Remote([url], "judge", batch=batch)
        jobs: dict[str, Callable[[], object]] = {
            "bare": bare,
            "served": lambda: client(images, prompts, metadata).value,
        }
        same = torch.equal(bare(), client(images, prompts, metadata).value)
        laps = interleaved(jobs, repeats, cpu)
        client.close()
    return {
        "name": name,
        "pictures": f"{count} of {side} x {side} in batches of {batch}",
        "share": ratio(laps, "bare", ["served"], cpu),
        "samples_per_second": {job: count / seconds(of, cpu) for job, of in laps.items()},
        "equal": same,
    }


class Waiting:
    """A scorer on another device: it takes its time, and none of this processor's."""

    def __init__(self, each: float) -> None:
        self.each = each

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Mean levels [B], after `each` seconds a sample."""
        time.sleep(self.each * len(images))
        value = images.double().mean((1, 2, 3, 4))
        return Scores(value, torch.ones(len(images), dtype=torch.bool))


def overlap(words: Sequence[str], share: float, repeats: int) -> dict[str, Any]:
    """Steps whose scoring takes `share` of the rollout, by every executor; medians over `repeats` steps."""
    config = compose([*RUN, *words]).typed()
    world = dist.start("cpu")
    parts = assemble(config, world)
    try:
        rows = config.data.prompts_per_step * config.data.samples_per_prompt
        quick = [_step(parts, Waiting(0.0), Executor.inline, step)["rollout"] for step in range(3)]
        scorer = Waiting(share * statistics.median(quick[1:]) / rows)
        with hosted(Service([Term("judge", scorer, 1.0)], TOKEN).application()) as url:
            client = Remote([url], "judge")
            ways = {"inline": scorer, "thread": scorer, "http": client}
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for step in range(repeats):
                for name in sorted(ways, reverse=bool(step % 2)):
                    rounds[name].append(_step(parts, ways[name], Executor[name], 3 + step))
            client.close()
        pieces = len(pipeline.shards(parts))
        return {
            "share": share,
            "rows": rows,
            "shards": pieces,
            "ways": {n: _told(r) for n, r in rounds.items()},
        }
    finally:
        parts.engine.close()
        dist.stop()


def _step(parts: pipeline.Parts, scorer: Any, executor: Executor, step: int) -> dict[str, float]:
    """Seconds by stage of one training step."""
    config = replace(parts.config, reward=replace(parts.config.reward, executor=executor))
    run = replace(parts, config=config, terms=[Term("judge", scorer, 1.0)])
    memory = pipeline.Memory(PriorState(kind="none"), RewardHistory())
    return pipeline.train_step(run, memory, step)[1].seconds


def _told(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians of seconds, and of wall time over the longer stage and over the sum, within a step."""
    wall = [r["rollout"] + r["score"] for r in rounds]
    pairs = [(r["rollout"], r["scorers"]) for r in rounds]
    of = {
        "rollout": [a for a, _ in pairs],
        "scorers": [b for _, b in pairs],
        "wall": wall,
        "over_longer": [w / max(p) for w, p in zip(wall, pairs, strict=True)],
        "over_sum": [w / sum(p) for w, p in zip(wall, pairs, strict=True)],
    }
    return {name: statistics.median(values) for name, values in of.items()}


def measure(repeats: int, layers: int = 12, side: int = 512, words: Sequence[str] = ()) -> dict[str, Any]:
    """All of it, as plain values. layers, side, words: smaller for a test."""
    started = time.perf_counter()
    os.environ.setdefault("RLVIS_TOKEN", TOKEN)
    before, os.environ["RLVIS_TOKEN"] = os.environ["RLVIS_TOKEN"], TOKEN
    try:
        cases = [
            throughput("vision tower of ViT-B/32's size", Tower(layers), side, 16, 3, repeats),
            throughput("tiny_clip, which comes with rlvis", Clip("asset:tiny_clip"), side, 16, 3, repeats),
        ]
        steps = [overlap(words, share, repeats) for share in (1.0, 0.5)]
    finally:
        os.environ["RLVIS_TOKEN"] = before
    return {
        "environment": environment.describe(torch.device("cpu")),
        "goals": GOALS,
        "rounds": repeats,
        "throughput": cases,
        "overlap": steps,
        "seconds_in_all": time.perf_counter() - started,
    }


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page."""
    about = result["environment"]
    threads = ", ".join(f"{k} {v}" for k, v in about["threads"].items())
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        "# Reward servers, and scoring beside the rollout",
        "",
        "Made by `python -m benchmarks.serving`; do not edit. Goal: a served scorer does at least 90 % of "
        "what the bare one does.",
        "",
        f"- {about['device']}, {about['cpu_cores']} cores; threads: {threads}",
        f"- {about['precision']}; Python {about['python']}; {versions}",
        f"- {result['rounds']} interleaved rounds; commit {about['commit']}; "
        f"{result['seconds_in_all']:.0f} s in all",
        "",
        "## Throughput",
        "",
        "Processor time of client, HTTP, server and scorer together, so a share of 1 is a server that costs "
        "nothing. The cost depends on the bytes alone, so the share is low only where a scorer takes hardly "
        "longer than its pictures do to be sent.",
        "",
        "| scorer | pictures | served / bare | range | wall time | samples/s bare | served | ms a picture "
        "that serving costs | equal bits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in result["throughput"]:
        share, each = case["share"], case["samples_per_second"]
        cost = 1000 / each["served"] - 1000 / each["bare"]
        lines.append(
            f"| {case['name']} | {case['pictures']} | {share['median']:.3f} | {share['min']:.3f} .. "
            f"{share['max']:.3f} | {share['wall']:.3f} | {each['bare']:.1f} | {each['served']:.1f} | "
            f"{cost:.1f} | "
            f"{'yes' if case['equal'] else 'no'} |"
        )
    for case in result["overlap"]:
        lines += [
            "",
            f"## Overlap, scoring {case['share']:.0%} of the rollout",
            "",
            f"{case['rows']} samples in {case['shards']} shards of the embedded default; the scorer waits on "
            f"something else. The best that {case['shards']} shards allow is the longer stage and one shard "
            "of the other.",
            "",
            "| reward.executor | rollout, s | scorers, s | wall, s | wall / longer | wall / sum |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {way['rollout']:.2f} | {way['scorers']:.2f} | {way['wall']:.2f} | "
            f"{way['over_longer']:.3f} | {way['over_sum']:.3f} |"
            for name, way in case["ways"].items()
        ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    told = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=told)
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    quiet_deepspeed("cpu")
    result = measure(chosen.repeats)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "serving_cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (chosen.out / "serving_cpu.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
