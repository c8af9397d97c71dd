"""Held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from rlvis.schema.key import Key
from rlvis.schema.reward import RewardTerm


class Suite(StrEnum):
    none = "none"
    shapes = "shapes"


@dataclass
class EvalConfig:
    """Held-out evaluation: prompts never trained on, noise of its own, the deterministic sampler."""

    suite: Annotated[Suite, Key("shapes: the shapes world's checker judges every sample", samples=True)] = (
        Suite.none
    )
    every: Annotated[
        int,
        Key(
            "between two, also before the first and after the last; 0: not in training",
            "training steps",
            least=0,
            most=10**7,
        ),
    ] = 0
    prompts: Annotated[
        int | None,
        Key(
            "how many, spread evenly over kinds; null: all",
            "prompts",
            least=1,
            most=10**7,
            usual=1,
            samples=True,
        ),
    ] = None
    samples: Annotated[int, Key("of each prompt", "samples", least=1, most=10**5, samples=True)] = 1
    steps: Annotated[
        int | None,
        Key(
            "of the ODE sampler; null: the default of the family's pipeline",
            "sampling steps",
            least=1,
            most=10000,
            usual=1,
        ),
    ] = None
    path: Annotated[
        str | None, Key("a file of held-out prompts in place of data.path", path=True, samples=True)
    ] = None
    split: Annotated[str, Key("in place of data.split", samples=True)] = "heldout"
    kinds: Annotated[list[str] | None, Key("of the shapes world's prompts; null: all", samples=True)] = None
    micro_batch: Annotated[
        int | None,
        Key("rows of one forward; null: train.micro_batch", "samples", least=1, most=10**5, usual=1),
    ] = None
    terms: Annotated[
        dict[str, RewardTerm],
        Key("scorers beside the suite, of any data, by a name of one's own", samples=True),
    ] = field(default_factory=dict)
    seed: Annotated[
        int,
        Key(
            "of its noise, apart from the run's: runs of other seeds meet the same noise",
            least=-(2**63),
            most=2**63 - 1,
            samples=True,
        ),
    ] = 0
    pictures: Annotated[
        int,
        Key(
            "whose first sample is kept as a small picture beside the numbers, spread over all; the report "
            "shows those that changed most",
            "prompts",
            least=0,
            most=10**4,
        ),
    ] = 48
    run: Annotated[
        str | None,
        Key("rlvis eval: a run folder or one of its checkpoints; null: the bare policy", path=True),
    ] = None
