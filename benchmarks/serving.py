"""What a server costs a scorer, and what scoring beside the rollout saves.

Throughput: samples a second of a scorer through client, HTTP and server (all in this process, so that its
processor time holds everything) over the bare scorer's, in the same batches. Overlap: wall time of rollout
and scoring in real training steps, next to the longer of the two and to their sum; the scorer waits as long
as a shard's rollout takes, as one on another device would, because two cores cannot show more.

    OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m benchmarks.serving
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import environment, pages
from benchmarks.scorers import Tower, Waiting
from benchmarks.timing import interleaved, ratio, seconds
from rlvis.compose.command import compose
from rlvis.records import PriorState, RewardHistory
from rlvis.reward.contract import Term
from rlvis.reward.scorers.clip import Clip
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.hosting import hosted
from rlvis.reward.serving.server import Service
from rlvis.runtime import dist
from rlvis.runtime.deepspeed_setup import quiet_deepspeed
from rlvis.schema import Executor
from rlvis.training import pipeline, sampling
from rlvis.training.assemble import assemble
from rlvis.training.parts import Memory, Parts

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
        pieces = len(sampling.local_shards(parts))
        return {
            "share": share,
            "rows": rows,
            "shards": pieces,
            "ways": {n: medians(r) for n, r in rounds.items()},
        }
    finally:
        parts.engine.close()
        dist.stop()


def _step(parts: Parts, scorer: Any, executor: Executor, step: int) -> dict[str, float]:
    """Seconds by stage of one training step."""
    config = replace(parts.config, reward=replace(parts.config.reward, executor=executor))
    run = replace(parts, config=config, terms=[Term("judge", scorer, 1.0)])
    memory = Memory(PriorState(kind="none"), RewardHistory())
    return pipeline.train_step(run, memory, step)[1].seconds


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
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
    lines = [
        "# Reward servers, and scoring beside the rollout",
        "",
        "Made by `python -m benchmarks.serving`; do not edit. Goal: a served scorer does at least 90 % of "
        "what the bare one does.",
        "",
        f"- {pages.machine(about)}",
        f"- {pages.software(about)}",
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
        *map(_throughput_row, result["throughput"]),
    ]
    for case in result["overlap"]:
        lines += _overlap_lines(case)
    return "\n".join(lines) + "\n"


def _throughput_row(case: dict[str, Any]) -> str:
    each = case["samples_per_second"]
    cost = 1000 / each["served"] - 1000 / each["bare"]
    equal = "yes" if case["equal"] else "no"
    speeds = f"{each['bare']:.1f}", f"{each['served']:.1f}", f"{cost:.1f}"
    return pages.ratio_row(f"{case['name']} | {case['pictures']}", case["share"], *speeds, equal)


def _overlap_lines(case: dict[str, Any]) -> list[str]:
    return [
        "",
        f"## Overlap, scoring {case['share']:.0%} of the rollout",
        "",
        f"{case['rows']} samples in {case['shards']} shards of the embedded default; the scorer waits on "
        f"something else. The best that {case['shards']} shards allow is the longer stage and one shard "
        "of the other.",
        "",
        "| reward.executor | rollout, s | scorers, s | wall, s | wall / longer | wall / sum |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {way['rollout']:.2f} | {way['scorers']:.2f} | {way['wall']:.2f} | "
            f"{way['over_longer']:.3f} | {way['over_sum']:.3f} |"
            for name, way in case["ways"].items()
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = pages.arguments("benchmarks.serving", __doc__, 5, argv)
    torch.set_num_threads(1)
    quiet_deepspeed("cpu")
    result = measure(chosen.repeats)
    pages.write(chosen.out, "serving_cpu", result, markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
