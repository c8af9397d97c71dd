"""Randomness as a pure function of (seed, step, prompt, sample, purpose); there is no hidden generator state.

Every draw has its own 128-bit Philox key hashed from those five, so the noise of a sample does not depend on
the batch, the rank or the device that computes it, and resuming a run needs no random state. Draws are made
on the CPU for the same reason.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def key_of(seed: int, step: int, prompt: int, sample: int, purpose: str) -> int:
    """A 128-bit key: BLAKE2b of the five values. prompt: position in the data set, never in the batch."""
    packed = struct.pack("<qqqq", seed, step, prompt, sample) + purpose.encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=16).digest(), "little")


def generator(
    seed: int, step: int, purpose: str, *, prompt: int = -1, sample: int = -1
) -> np.random.Generator:
    """A numpy generator for one purpose of one step (-1: not tied to a prompt or sample)."""
    return np.random.Generator(np.random.Philox(key=key_of(seed, step, prompt, sample, purpose)))


def noise(
    shape: Sequence[int],
    *,
    seed: int,
    step: int,
    prompts: Sequence[int],
    samples: Sequence[int],
    purpose: str,
) -> Tensor:
    """Standard normal noise [n, *shape] float32 on the CPU, row i drawn for (prompts[i], samples[i]).

    >>> a = noise((2,), seed=1, step=0, prompts=[5, 7], samples=[0, 0], purpose="initial")
    >>> b = noise((2,), seed=1, step=0, prompts=[7], samples=[0], purpose="initial")
    >>> bool((a[1] == b[0]).all())
    True
    """
    out = np.empty((len(prompts), *shape), dtype=np.float32)
    # One Philox, keyed anew for every row: the numbers of `generator`, which costs more to build than to use.
    bits = np.random.Philox(key=0)
    start, draw = bits.state, np.random.Generator(bits).standard_normal
    for row, prompt, sample in zip(out, prompts, samples, strict=True):
        key = key_of(seed, step, int(prompt), int(sample), purpose)
        start["state"]["key"] = np.array([key % 2**64, key // 2**64], dtype=np.uint64)
        bits.state = start
        draw(dtype=np.float32, out=row)
    return torch.from_numpy(out)
