"""Which rows every rank runs in which optimizer step: planning only, from the global mask of kept samples.

The set of samples of an optimizer step does not depend on the number of ranks: kept samples, in the order
(prompt, sample), are dealt in blocks, each block spread over the steps by a seeded permutation, so every step
sees a share of nearly every group. Ranks then run the rows they own, padded with weight-0 rows so that all
make the same number of equally large forward passes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass of one rank: local row numbers, and 1.0 for a row that counts, 0.0 for padding.

    A padding row repeats a kept row where the rank has one. A rank that has none repeats its row 0, whose
    states need not be finite: whoever runs it makes its inputs finite first, for neither a weight of 0 nor
    torch.where on the loss keeps a NaN activation out of the gradients.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """One optimizer step: ranks[r] are the micro-batches of rank r, count the kept rows of all ranks."""

    ranks: tuple[tuple[MicroBatch, ...], ...]
    count: int


def plan(
    keep: Tensor, updates: int, micro_batch: int, world_size: int, seed_rng: np.random.Generator
) -> list[UpdatePlan]:
    """Deal the kept samples to `updates` optimizer steps.

    keep: [P, K] bool, equal on every rank; row p*K + k belongs to the rank r whose range r*N//W ..
    (r+1)*N//W - 1 holds it, N = P*K.
    seed_rng: must be in the same state on every rank. Sizes of the steps differ by at most one; a step that
    would have no row at all is left out, so the list is shorter than `updates` when fewer samples are kept.
    Raises ValueError for sizes below 1, and when some rank owns no row at all.
    """
    total = keep.numel()
    if min(updates, micro_batch, world_size) < 1:
        raise ValueError(
            f"train.updates_per_step={updates}, train.micro_batch={micro_batch} and {world_size} ranks: "
            "all must be at least 1; type for example train.micro_batch=1"
        )
    if total < world_size:
        raise ValueError(
            f"data.prompts_per_step * data.samples_per_prompt = {total} samples cannot be spread over "
            f"{world_size} ranks, because every rank needs one; start at most {total} ranks "
            "or raise data.prompts_per_step"
        )
    kept: list[int] = torch.nonzero(keep.reshape(-1)).flatten().tolist()
    steps: list[list[int]] = [[] for _ in range(updates)]
    for start in range(0, len(kept), updates):
        for row, step in zip(kept[start : start + updates], seed_rng.permutation(updates), strict=False):
            steps[int(step)].append(row)
    bounds = [r * total // world_size for r in range(world_size + 1)]
    spare = [_first_owned(kept, low, high) for low, high in itertools.pairwise(bounds)]
    return [_spread(rows, bounds, spare, micro_batch) for rows in steps if rows]


def _first_owned(kept: list[int], low: int, high: int) -> int:
    """Local number of a rank's first kept row, 0 if it has none."""
    return next((row - low for row in kept if low <= row < high), 0)


def _spread(rows: list[int], bounds: list[int], spare: list[int], micro_batch: int) -> UpdatePlan:
    """Split the (ascending) global rows of one step over the ranks and into full micro-batches."""
    local = [[row - low for row in rows if low <= row < high] for low, high in itertools.pairwise(bounds)]
    passes = max(-(-len(owned) // micro_batch) for owned in local)
    ranks = []
    for owned, padding in zip(local, spare, strict=True):
        missing = passes * micro_batch - len(owned)
        numbers = owned + [padding] * missing
        weights = [1.0] * len(owned) + [0.0] * missing
        cuts = range(0, passes * micro_batch, micro_batch)
        ranks.append(
            tuple(
                MicroBatch(tuple(numbers[i : i + micro_batch]), tuple(weights[i : i + micro_batch]))
                for i in cuts
            )
        )
    return UpdatePlan(tuple(ranks), len(rows))
