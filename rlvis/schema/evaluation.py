"""Held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rlvis.schema.reward import RewardTerm


class Suite(Enum):
    none = "none"
    shapes = "shapes"


@dataclass
class EvalConfig:
    """Held-out evaluation: prompts never trained on, noise of its own, the deterministic sampler."""

    suite: Suite = Suite.none  # shapes: the shapes world's checker judges every sample
    every: int = 0  # training steps between two, also before the first and after the last; 0: not in training
    prompts: int | None = None  # how many, spread evenly over kinds; null: all
    samples: int = 1  # of each prompt
    steps: int | None = None  # of the ODE sampler; null: the default of the family's pipeline
    path: str | None = None  # a file of held-out prompts in place of data.path
    split: str = "heldout"  # in place of data.split
    kinds: list[str] | None = None  # of the shapes world's prompts; null: all
    micro_batch: int | None = None  # rows of one forward; null: train.micro_batch
    terms: dict[str, RewardTerm] = field(default_factory=dict)  # scorers beside the suite, of any data
    seed: int = 0  # of its noise, apart from the run's: runs of other seeds meet the same noise
    run: str | None = None  # rlvis eval: a run folder or one of its checkpoints; null: the bare policy
