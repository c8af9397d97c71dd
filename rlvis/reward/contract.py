"""What a scorer is: images, prompts and metadata in, scores with their validity out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvis.reward.boundary import Boundary


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of B samples by one scorer: value float64 [B], valid bool [B] (False: it could not judge).

    noise_var: estimated variance of the scorer's noise [B], with noise_dof, the degrees of freedom of
    that estimate [B] (repeated calls less one); None where a scorer says nothing about its noise. reason:
    why some are not valid, for the log. extras: further numbers [n] by name, whose means become metrics.
    """

    value: Tensor
    valid: Tensor
    noise_var: Tensor | None = None
    noise_dof: Tensor | None = None
    reason: str = ""
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def or_nan(column: Tensor | None, like: Tensor) -> Tensor:
    """A column, or NaN in the shape of `like` for one that is left out."""
    return torch.full_like(like, torch.nan) if column is None else column


def concatenate(parts: Sequence[Any], name: str) -> Tensor | None:
    """The column noise_var or noise_dof of the records in `parts`, one after the other.

    NaN where some leave it out, None where all do.
    """
    columns = [getattr(part, name) for part in parts]
    if all(column is None for column in columns):
        return None
    return torch.cat([or_nan(column, part.value) for column, part in zip(columns, parts, strict=True)])


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of neighbouring samples as one record; there is at least one part."""
    value, valid = (torch.cat([getattr(part, name) for part in parts]) for name in ("value", "valid"))
    return Scores(value, valid, concatenate(parts, "noise_var"), concatenate(parts, "noise_dof"))


class Scorer(Protocol):
    """Scores of a batch: images uint8 [B, M, 3, Y, X] on the CPU (RGB), B prompts and their metadata."""

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Score each sample; an exception masks, a wrong number never happens silently (see stage)."""
        ...


@dataclass(frozen=True, slots=True)
class Term:
    """A named scorer and its weight in the combined reward. Weight 0: scored and logged, not trained on.

    boundary: what stands between the scorer and everything else, and remembers between calls.
    """

    name: str
    scorer: Scorer
    weight: float
    boundary: Boundary = field(default_factory=Boundary)

    def ask(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X], behind the boundary. Raises an Exception whatever the
        scorer raised, but for a Ctrl-C of the user's.
        """
        scores: Scores = self.boundary.call(self.name, self.scorer, images, prompts, metadata)
        return scores
