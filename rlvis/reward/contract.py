"""What a scorer is: images, prompts and metadata in, scores with their validity out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of B samples by one scorer: value float64 [B], valid bool [B] (False: it could not judge).

    noise_var: estimated variance of the scorer's own noise [B], with noise_dof, the degrees of freedom of
    that estimate [B] (repeated calls less one); None where a scorer says nothing about its noise.
    """

    value: Tensor
    valid: Tensor
    noise_var: Tensor | None = None
    noise_dof: Tensor | None = None


class Scorer(Protocol):
    """Scores of a batch: images uint8 [B, M, 3, Y, X] on the CPU (RGB), B prompts and their metadata."""

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Score each sample; an exception masks, a wrong number never happens silently (see stage)."""
        ...


@dataclass(frozen=True, slots=True)
class Term:
    """A named scorer and its weight in the combined reward. Weight 0: scored and logged, not trained on."""

    name: str
    scorer: Scorer
    weight: float
