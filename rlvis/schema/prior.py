"""What a group's mean reward is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class PriorKind(Enum):
    none = "none"
    constant = "constant"
    record = "record"
    reference = "reference"
    first_frame = "first_frame"
    moving_average = "moving_average"
    hierarchical = "hierarchical"


# Written as a call because `global` is a keyword of Python.
PriorScope = Enum("PriorScope", {"global": "global", "prompt": "prompt"})


@dataclass
class PriorConfig:
    """What a group's mean reward is compared with: mean, variance and count per prompt and objective."""

    kind: PriorKind = PriorKind.none
    value: Any = None  # constant: a number, or one per objective
    field: str | None = None  # record: the prompt's metadata field that holds the number(s)
    samples: int = 8  # reference: samples of the reference policy per prompt
    cache: str = "outputs/cache/reference"  # reference: folder of their scores, for runs of equal settings
    scope: PriorScope = PriorScope["global"]  # moving_average: one mean, or one a prompt
    decay: float = 0.9  # moving_average: weight of the past
    window: int = 256  # hierarchical: groups that the population's moments come from
