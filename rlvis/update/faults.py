"""What exactly was not finite in an update: rows and transitions, layers, the first module of the forward.

Collected only when a step is broken. The per-row losses of one optimizer step are small, so they are kept
until its end and looked at then: nothing waits for the device on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.records import PromptBatch, Trajectories
from rlvis.runtime import dist, finite

MOST = 20  # rows that are named

Row = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """Where an update broke.

    optimizer_step: of the training step, from 0. rows: {"prompt": position in the data set, "sample", "text",
    "at": trained transition, "step": sampling step, "sigma", "value": "nan" | "inf" | "-inf", of the loss or
    else of the ratio}, at most MOST.
    layers: blocks whose gradient was not finite. module: the first module of the forward whose output was
    not; weights: because its own parameters are not.
    """

    optimizer_step: int
    rows: list[Row] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    module: str | None = None
    weights: bool = False


@dataclass(frozen=True)
class Seen:
    """One micro-batch at one transition: local row numbers, weights, losses and |ratio - 1|, each [B]."""

    rows: tuple[int, ...]
    weights: Tensor
    s: int
    per_row: Tensor
    ratio: Tensor  # clipping can make the loss of an infinite ratio finite, but not its gradient


def look(
    seen: list[Seen],
    number: int,
    prompts: PromptBatch,
    trajectories: Trajectories,
    layers: dict[str, float],
    module: nn.Module,
    forward: Callable[[tuple[int, ...], int], Any],
) -> Broken:
    """Find out what was not finite in optimizer step `number`; a collective, with as many forwards on every
    rank: of the first bad micro-batch and transition, or of all where every loss and ratio is finite.

    layers: gradient norm of each block. module: the trained one. forward: (rows, s) -> anything, runs the
    policy on that micro-batch.
    """
    faulty = [(one, at) for one in seen if len(at := _bad(one))]
    local = [
        [float(trajectories.prompt[row]), float(trajectories.sample[row]), float(one.s), step, sigma, value]
        for one, at in faulty
        for row, value in zip([one.rows[i] for i in at.tolist()], _values(one)[at].tolist(), strict=True)
        for step in [float(trajectories.step[row, one.s])]
        for sigma in [float(trajectories.schedule.sigma[int(step)])]
    ][:MOST]
    table = dist.all_gather_rows(torch.tensor(local, dtype=torch.float64).reshape(-1, 6)).tolist()
    rows = [
        {
            "prompt": int(prompts.index[int(p)]),
            "sample": int(k),
            "text": prompts.texts[int(p)],
            "at": int(s),
            "step": int(step),
            "sigma": sigma,
            "value": name(value),
        }
        for p, k, s, step, sigma, value in sorted(table, key=lambda row: (row[2], row[0], row[1]))
    ]
    again = [faulty[0][0] if faulty else seen[0]] if rows else seen
    # With gradients, as in the forward that broke: without them other kernels would run.
    with torch.enable_grad(), finite.watch(module) as first:
        for one in again:
            forward(one.rows, one.s)
    first = finite.agreed(first, module)
    broken = [block for block, norm in layers.items() if not math.isfinite(norm)]
    return Broken(number, rows[:MOST], broken, first.module, first.weights)


def _values(one: Seen) -> Tensor:
    """The losses, and where they are finite the ratios [B]."""
    return torch.where(torch.isfinite(one.per_row), one.ratio, one.per_row)


def _bad(one: Seen) -> Tensor:
    """Positions of the rows that count and whose loss or ratio is not finite."""
    return torch.nonzero((one.weights > 0) & ~torch.isfinite(_values(one))).flatten()


def name(value: float) -> str:
    """ "nan", "inf" or "-inf"."""
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def told(broken: Broken) -> str:
    """Where it is, for a message; empty where nothing is known."""
    parts = []
    if broken.rows:
        row = broken.rows[0]
        parts.append(
            f"{row['value']} first at transition {row['at']} (sigma {row['sigma']:.3f}) of prompt "
            f"{row['prompt']}, sample {row['sample']}"
        )
    if broken.module is not None:
        parts.append(f"from {broken.module}{' (its weights)' if broken.weights else ''} on")
    return f" ({', '.join(parts)})" if parts else ""
