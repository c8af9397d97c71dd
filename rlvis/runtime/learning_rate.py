"""The learning rate of a training step, a pure function of its number: resuming needs no state."""

from __future__ import annotations

import math

from rlvis.schema import LrSchedule, OptimConfig


def learning_rate(optim: OptimConfig, steps: int, step: int) -> float:
    """Of training step `step`, from 0, in a run of `steps`; all optimizer steps of it have the same.

    It rises to optim.lr over `warmup` steps (the first has 1 / warmup of it), and goes on from there as
    `schedule` says: `linear` and `cosine` would be 0 right after the last step.
    """
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    if optim.schedule is LrSchedule.constant:
        return optim.lr
    done = min(1.0, (step - optim.warmup) / (steps - optim.warmup))
    left = 1 - done if optim.schedule is LrSchedule.linear else (1 + math.cos(math.pi * done)) / 2
    return optim.lr * left
