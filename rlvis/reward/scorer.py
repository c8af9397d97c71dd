"""The terms of a run, made from its RewardConfig.

Every scorer, ours or a user's, is a function named by a dotted path; the names below are abbreviations for
paths of this package, imported only when a run asks for them.
"""

from __future__ import annotations

import math

from rlvis.reward import function
from rlvis.reward.contract import Scorer, Term
from rlvis.reward.frames import Chosen
from rlvis.schema import RewardConfig, RewardTerm

KNOWN = {
    "checker": "rlvis.reward.world.checker",
    "clip": "rlvis.reward.clip.Clip",
    "coverage": "rlvis.reward.coverage.coverage",
    "intact": "rlvis.reward.world.intact",
    "jpeg_compressibility": "rlvis.reward.jpeg.jpeg_compressibility",
    "jpeg_incompressibility": "rlvis.reward.jpeg.jpeg_incompressibility",
    "noisy": "rlvis.reward.noisy.Noisy",
}


def build(config: RewardConfig) -> list[Term]:
    """The terms of a run, in the order of the config; scorers that are classes are constructed here, once.

    Raises ValueError when there is no term, a weight is not finite, a scorer is not found or its kwargs do
    not fit.
    """
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
        terms.append(one(name, term, f"reward.terms.{name}"))
    return terms


def one(name: str, term: RewardTerm, where: str) -> Term:
    """A term of `terms.NAME`. Raises ValueError as `build` does."""
    scorer: Scorer = function.load(term.scorer, dict(term.kwargs), known=KNOWN, where=where)
    if term.frames != "all":
        scorer = Chosen(scorer, term.frames)
    return Term(name, scorer, float(term.weight))
