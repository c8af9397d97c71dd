"""Which prompts a training step takes: a pure function of (seed, step), so resuming needs no sampler state.

Steps walk through one permutation of the data set after another; each epoch holds every prompt exactly once,
and a step that straddles two epochs still has P different prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from rlvis.data.prompts import PromptSet
from rlvis.records import PromptBatch
from rlvis.runtime import rng


def batch(prompts: PromptSet, step: int, prompts_per_step: int, shuffle: bool, seed: int) -> PromptBatch:
    """The P = prompts_per_step different prompts of a training step, embeds still empty.

    Of the endless sequence "epoch 0, epoch 1, ..." step s takes positions s P .. (s+1) P - 1. An epoch is a
    permutation drawn from (seed, epoch), or file order without shuffle. Where a step straddles epochs,
    prompts of its first part are moved behind the second part within the new epoch: two equal prompts in one
    step would share their noise and so their samples. Raises ValueError when P exceeds the number of prompts.
    """
    n, p = len(prompts), prompts_per_step
    if p < 1 or step < 0:
        raise ValueError(f"wanted data.prompts_per_step >= 1 and a step >= 0, got {p} and {step}")
    if p > n:
        raise ValueError(
            f"data.prompts_per_step={p}, but {prompts.source} has {n} prompts; a step takes different "
            f"prompts, because a repeated one would draw the same noise: type data.prompts_per_step={n} or "
            "fewer, and raise data.samples_per_prompt to keep the number of samples"
        )
    index: list[int] = []
    while len(index) < p:
        epoch, start = divmod(step * p + len(index), n)
        index += _epoch_order(n, p, epoch, shuffle, seed)[start : start + p - len(index)].tolist()
    return select(prompts, index)


def select(prompts: PromptSet, index: Sequence[int]) -> PromptBatch:
    """The prompts at these positions of the data set as a PromptBatch, with their condition frames where the
    data set brings them, embeds still empty; also for evaluation and sample sheets.
    """
    return PromptBatch(
        index=torch.tensor(list(index), dtype=torch.int64),
        texts=tuple(prompts.texts[i] for i in index),
        metadata=tuple(prompts.metadata[i] for i in index),
        frames=None if prompts.frames is None else prompts.frames(index),
    )


@lru_cache(maxsize=4)
def _epoch_order(n: int, p: int, epoch: int, shuffle: bool, seed: int) -> np.ndarray:
    """Positions 0..n-1 in the order in which steps of p <= n prompts meet them in this epoch: int64 [n].

    The order depends on the tail of the epoch before, back to the last epoch that began together with a step;
    there are at most p of those.
    """
    if not shuffle:
        return np.arange(n)
    first = epoch
    while (first * n) % p:
        first -= 1
    order = np.empty(0, dtype=np.int64)
    for e in range(first, epoch + 1):
        tail = order[n - (e * n) % p :] if e > first else order
        order = rng.generator(seed, e, "prompts").permutation(n)
        if len(tail):
            head = np.flatnonzero(~np.isin(order, tail))[: p - len(tail)]
            order = np.concatenate([order[head], np.delete(order, head)])
    return order
