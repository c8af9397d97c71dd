"""What a group's mean reward is compared with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from rlvis.schema.key import Key

# Written as a call because `global` is a keyword of Python.
PriorScope = StrEnum("PriorScope", {"global": "global", "prompt": "prompt"})


@dataclass
class PriorConfig:
    """What a group's mean reward is compared with: mean, variance and count per prompt and objective.

    Which of the keys are read is said by the prior itself (rlvis/trust/prior.py).
    """

    kind: Annotated[
        str, Key("a module of rlvis/trust/priors, or MODULE.CLASS of your own; none: nothing is compared")
    ] = "none"
    value: Annotated[
        Any,
        Key(
            "constant: a number, or one for each objective",
            "of the reward",
            least=-1e12,
            most=1e12,
            relation="as many as there are objectives",
            usual=0.5,
        ),
    ] = None
    field: Annotated[
        str | None, Key("record: metadata field of the prompts that holds the number(s)", usual="NAME")
    ] = None
    samples: Annotated[
        int, Key("reference: of each prompt, by the policy before training", "samples", least=1, most=10**5)
    ] = 8
    cache: Annotated[
        str, Key("reference: folder of their scores, for all runs of the same settings", path=True)
    ] = "outputs/cache/reference"
    scope: Annotated[PriorScope, Key("moving_average: one mean, or one a prompt")] = PriorScope["global"]
    decay: Annotated[
        float, Key("moving_average: of the past, a training step", "weight", least=0, below=1)
    ] = 0.9
    window: Annotated[
        int,
        Key("hierarchical: that the population's moments come from", "recent groups", least=2, most=10**7),
    ] = 256
    kwargs: Annotated[
        dict[str, Any], Key("of a prior of your own, by name; checked against its constructor")
    ] = dataclasses.field(default_factory=dict)
