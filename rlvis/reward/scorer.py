"""What a scorer is, and the terms of a run made from its RewardConfig.

Every scorer, ours or a user's, is a function named by a dotted path; the names below are abbreviations for
paths of this package, imported only when a run asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from rlvis.schema import RewardConfig

KNOWN = {
    "coverage": "rlvis.reward.coverage.coverage",
    "jpeg_compressibility": "rlvis.reward.jpeg.jpeg_compressibility",
    "jpeg_incompressibility": "rlvis.reward.jpeg.jpeg_incompressibility",
}


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


def build(config: RewardConfig) -> list[Term]:
    """The terms of a run, in the order of the config; scorers that are classes are constructed here, once.

    Raises ValueError when there is no term, a weight is not finite, a scorer is not found or its kwargs do
    not fit.
    """
    from rlvis.reward import function  # it imports this module

    if not config.terms:
        raise ValueError(
            "the reward has no terms, so there is nothing to train on; type reward=NAME, or "
            f"+reward.terms.NAME.scorer=S with S one of {', '.join(KNOWN)} or a dotted path such as "
            "my_rewards.redness"
        )
    terms = []
    for name, term in config.terms.items():
        if not math.isfinite(term.weight):
            raise ValueError(f"reward.terms.{name}.weight={term.weight}: wanted a finite number")
        scorer = function.load(term.scorer, dict(term.kwargs), known=KNOWN, where=f"reward.terms.{name}")
        terms.append(Term(name, scorer, float(term.weight)))
    return terms
