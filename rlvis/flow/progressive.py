"""MixGRPO's window over training (arXiv 2507.21802): where it stands at an iteration, and when it runs empty.

A pure function of the iteration, so a resumed run needs no state.
"""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["none", "linear", "exponential"]

DECAY_FROM = 13  # MixGRPO's `exp_decay`: first start of the window that is held for less time
DECAY_RATE = 0.1


def position(
    end: int, iteration: int, size: int, iters_per_group: int, stride: int, roll_back: bool, decay: Decay
) -> int:
    """Start of the window at an iteration: walk the positions in order, each held for its time."""
    if iteration < 0:
        raise ValueError(f"a progressive window needs iteration >= 0, got iteration={iteration}")
    starts, holds = _positions(end, size, iters_per_group, stride, roll_back, decay)
    left = iteration % sum(holds) if roll_back else iteration
    for start, hold in zip(starts, holds, strict=True):
        if left < hold:
            return start
        left -= hold
    return end


def _positions(
    end: int, size: int, iters_per_group: int, stride: int, roll_back: bool, decay: Decay
) -> tuple[list[int], list[int]]:
    """Starts of the window in order, and for how many iterations each is held."""
    if min(size, iters_per_group, stride, end) < 1:
        raise ValueError(
            "a progressive window needs size, iters_per_group, stride and high >= 1, got "
            f"size={size}, iters_per_group={iters_per_group}, stride={stride} and high={end}"
        )
    starts = list(range(0, end + 1, stride))
    if not roll_back and starts[-1] < end:
        starts.append(end)  # the published machine stops exactly at the end
    return starts, [_hold(start, end, iters_per_group, decay) for start in starts]


def _hold(start: int, end: int, iters_per_group: int, decay: Decay) -> int:
    """Iterations for which the window stays at `start`."""
    if decay == "linear":
        shortest, progress = max(1, iters_per_group // 4), start / end
        return max(shortest, int(iters_per_group * (1 - progress) + shortest * progress))
    if decay == "exponential":
        return math.ceil(iters_per_group * math.exp(-DECAY_RATE * max(0, start - DECAY_FROM)))
    if decay != "none":
        raise ValueError(f"decay must be none, linear or exponential, got {decay!r}")
    return iters_per_group


def first_empty(
    steps: int,
    iterations: int,
    size: int = 4,
    iters_per_group: int = 25,
    stride: int = 1,
    roll_back: bool = True,
    high: int | None = None,
    decay: Decay = "none",
) -> int | None:
    """First of `iterations` at which `progressive` with these arguments would be empty, or None."""
    end = steps - 2 if high is None else high
    starts, holds = _positions(end, size, iters_per_group, stride, roll_back, decay)
    before = sum(hold for start, hold in zip(starts, holds, strict=True) if start < end)
    return before if starts[-1] >= end and before < iterations else None
