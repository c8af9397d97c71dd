"""Ratios of times that survive a busy machine: jobs take turns, and each ratio is of two neighbours.

On a CPU with one thread the clock is processor time, which other programs on the machine hardly change; wall
time is kept beside it. On a GPU it is wall time between two synchronisations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lap:
    """Seconds of one run of a job: processor time of this process, and wall time."""

    cpu: float
    wall: float

    def on(self, device: torch.device) -> float:
        """The time that counts on `device`."""
        return self.cpu if device.type == "cpu" else self.wall


def lap(job: Callable[[], object], device: torch.device) -> Lap:
    """Run a job once and time it."""
    _wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    job()
    _wait(device)
    return Lap(time.process_time() - cpu, time.perf_counter() - wall)


def interleaved(
    jobs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[Lap]]:
    """Run every job once to warm up, then `repeats` rounds of all, every other round backwards."""
    for job in jobs.values():
        job()
    laps: dict[str, list[Lap]] = {name: [] for name in jobs}
    order = list(jobs)
    for _ in range(repeats):
        for name in order:
            laps[name].append(lap(jobs[name], device))
        order.reverse()
    return laps


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(
    laps: Mapping[str, Sequence[Lap]], above: str, below: Sequence[str], device: torch.device
) -> dict[str, float]:
    """Of each round, the time of `above` over the summed times of `below`; spread over the rounds.

    `wall` is the median of the same ratios in wall time.
    """

    def of(time_of: Callable[[Lap], float]) -> list[float]:
        rounds = zip(laps[above], *(laps[name] for name in below), strict=True)
        return [time_of(first) / sum(map(time_of, rest)) for first, *rest in rounds]

    return spread(of(lambda x: x.on(device))) | {"wall": statistics.median(of(lambda x: x.wall))}


def seconds(laps: Sequence[Lap], device: torch.device) -> float:
    """Median of the time that counts."""
    return statistics.median(x.on(device) for x in laps)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
