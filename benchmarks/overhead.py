"""What rlvis costs beyond the model: ratios over bare loops, bytes of a step, seconds a sample.

One interleaved run (A B C, C B A, ...), medians of the ratios of neighbours with their extremes, one thread
on a CPU. Writes overhead_<device>.json and .md.

    OMP_NUM_THREADS=1 python -m benchmarks.overhead
    python -m benchmarks.overhead --device cuda
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, memory, pages, policies, tables
from benchmarks.timing import interleaved, ratio, seconds, spread
from benchmarks.workload import Case, Workload
from rlvis.runtime import dist
from rlvis.runtime.dist import World

GROWTH = (1, 4, 16)  # times the samples of a prompt
# One CPU core runs the wide policy at batch 16: 64 rows of 256 tokens take minutes a round there.
CPU_CASES = (
    Case(policies.TINY, prompts=4, samples=32, micro_batch=64, steps=8, updates=2, repeats=7),
    Case(policies.TINY, prompts=4, samples=16, micro_batch=8, steps=8, updates=2, repeats=7),
    Case(policies.WIDE, prompts=4, samples=4, micro_batch=16, steps=3, updates=1, repeats=5),
)
CUDA_CASES = (
    Case(policies.TINY, prompts=4, samples=32, micro_batch=64, steps=8, updates=2, repeats=15),
    Case(policies.TINY, prompts=4, samples=16, micro_batch=8, steps=8, updates=2, repeats=15),
    Case(policies.WIDE, prompts=4, samples=32, micro_batch=64, steps=8, updates=2, repeats=15),
)
GROWING = Case(policies.TINY, prompts=4, samples=4, micro_batch=8, steps=8, updates=2, repeats=3)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, help="rounds of every case; the default is 3 to 15")
    parser.add_argument("--out", type=Path, default=pages.RESULTS, help="folder of the results")
    chosen = parser.parse_args(argv)
    cases: tuple[Case, ...] = CUDA_CASES if chosen.device == "cuda" else CPU_CASES
    growing = GROWING
    if chosen.repeats is not None:
        cases = tuple(replace(case, repeats=chosen.repeats) for case in cases)
        growing = replace(growing, repeats=chosen.repeats)
    if chosen.device == "cpu":
        torch.set_num_threads(1)
    result = measure(cases, growing, GROWTH, chosen.device)
    path = write(result, chosen.out)
    tables.show(result)
    print(f"written: {path}.json, {path}.md")


def measure(cases: Sequence[Case], growing: Case, growth: Sequence[int], device: str) -> dict[str, Any]:
    """All cases and the growth of groups, as plain values."""
    started = time.perf_counter()
    world = dist.start(device)
    try:
        with tempfile.TemporaryDirectory() as folder:
            measured = [_case(case, Path(folder), world) for case in cases]
            grown = _growth(growing, growth, Path(folder), world)
    finally:
        dist.stop()
    return {
        "environment": environment.describe(world.device),
        "cases": measured,
        "growth": grown,
        "seconds_in_all": time.perf_counter() - started,
    }


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write the JSON and its page; their path without the ending."""
    name = f"overhead_{result['environment']['device_type']}"
    return pages.write(folder, name, result, tables.markdown(result))


def _case(case: Case, folder: Path, world: World) -> dict[str, Any]:
    """Ratios and bytes of one policy at one size."""
    device = world.device
    work = Workload(case, folder, world)
    laps = interleaved(
        {
            "rollout, no decode": work.rollout_undecoded,
            "bare forwards": work.forwards,
            "rollout": work.rollout,
            "bare decode": work.decodes,
            "update": work.update,
            "bare update": work.bare_update,
            "bare update, DeepSpeed": work.engine_update,
        },
        case.repeats,
        device,
    )
    compared = [
        ("rollout, no decode", ["bare forwards"]),
        ("rollout", ["bare forwards", "bare decode"]),
        ("update", ["bare update"]),
        ("update", ["bare update, DeepSpeed"]),
        ("bare update, DeepSpeed", ["bare update"]),
    ]
    result = {
        "name": case.size.name,
        "weights": work.origin,
        "policy": case.size.describe(),
        "shape": {k: v for k, v in asdict(case).items() if k != "size"} | {"rows": case.rows},
        "ratios": [
            {"above": above, "below": " + ".join(below), **ratio(laps, above, below, device)}
            for above, below in compared
        ],
        "seconds": {name: seconds(values, device) for name, values in laps.items()},
        "bytes": memory.of_step(work),
    }
    work.close()
    return result


def _growth(case: Case, growth: Sequence[int], folder: Path, world: World) -> dict[str, Any]:
    """Seconds a sample of whole steps (all five stages) on groups of one, four, ... times `case.samples`."""
    work = Workload(case, folder, world)

    def job(samples: int) -> Any:
        return lambda: work.whole_step(samples)

    sizes = [case.samples * factor for factor in growth]
    laps = interleaved({str(n): job(n) for n in sizes}, case.repeats, world.device)
    work.close()
    per_sample = {n: [x.on(world.device) / (case.prompts * n) for x in laps[str(n)]] for n in sizes}
    first = per_sample[sizes[0]]
    return {
        "name": case.size.name,
        "shape": {k: v for k, v in asdict(case).items() if k not in ("size", "samples")},
        "groups": [
            {
                "samples": n,
                "seconds_per_sample": spread(values),
                "over_first": spread([a / b for a, b in zip(values, first, strict=True)]),
            }
            for n, values in per_sample.items()
        ],
    }


if __name__ == "__main__":
    # Nothing here comes from the hub, and loading is not what is watched.
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "DIFFUSERS_VERBOSITY": "critical",
    }.items():
        os.environ.setdefault(name, value)
    main()
