"""A fixed number, or one for each objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.records import PromptBatch
from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor, Memory, Prior


class Constant(Prior):
    """value: a number, or a list with one for each objective."""

    has_variance = False

    def __init__(self, value: Any) -> None:
        """Raises ConfigError for anything that is no number and no list of numbers."""
        if not all(map(_is_number, value if isinstance(value, list | tuple) and value else [value])):
            typed = "null" if value is None else value
            raise ConfigError(
                mistake(
                    f"prior.value={typed} with prior.kind=constant: wanted a number, or a list with one for "
                    "each objective",
                    "prior.value=0.5",
                )
            )
        self.value = value

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """The same for every prompt; no memory."""
        mean = torch.tensor(numbers(self.value, groups.mean.shape[1], "prior.value"), dtype=torch.float64)
        return fixed(mean.expand_as(groups.mean).clone()), {}


def numbers(value: Any, size: int, what: str) -> list[float]:
    """One finite number for each of the `size` objectives, or one for all of them; ValueError for less."""
    entries = list(value) if isinstance(value, (list, tuple)) else [value] * size
    if len(entries) != size or not all(map(_is_number, entries)):
        raise ValueError(
            f"{what} is {value!r}: wanted a finite number, or a list of {size}, one for each objective; "
            "type prior.value=NUMBER or correct the field"
        )
    return [float(x) for x in entries]


def fixed(mean: Tensor) -> Anchor:
    """Means [P, Q] that rest on one number each, without a variance."""
    return Anchor(mean, torch.zeros_like(mean), torch.ones_like(mean))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


ENTRY = Constant
