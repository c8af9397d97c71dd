"""Scores of samples by the policy before training, of the same prompts (arXiv 2511.18919, text to video)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.records import PromptBatch
from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor, Elsewhere, Memory, Prior, prompt_key, stacked


class Reference(Prior):
    """Scores of other samples of the same prompts, remembered from a prompt's first step on.

    A prompt none of whose reference samples could be scored has count 0 and its own group's mean, so that
    nothing is made up.
    """

    looks_up: Elsewhere = "reference"

    def __init__(self, samples: int) -> None:
        self.has_variance = samples > 1

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """The remembered scores, and those of new prompts; ValueError where these are missing."""
        kept = dict(memory)
        for p, index in enumerate(prompts.index.tolist()):
            if prompt_key(index) in kept:
                continue
            if reference is None:
                raise ValueError(
                    f"prior.kind={self.looks_up} needs scores of prompt {index} from elsewhere, and none "
                    "were handed in; type prior=moving_average, which needs none"
                )
            if reference.mean.shape != groups.mean.shape:
                raise ValueError(
                    f"reference rewards: wanted [P, Q] = {list(groups.mean.shape)}, the step's, got "
                    f"{list(reference.mean.shape)}; score the same prompts with the same reward terms"
                )
            count = reference.count[p].expand_as(reference.mean[p])
            mean = torch.where(count > 0, reference.mean[p], groups.mean[p])
            if bool(count[0] > 0):
                kept[prompt_key(index)] = torch.stack([mean, reference.var[p], count])
        entries = [kept.get(prompt_key(index)) for index in prompts.index.tolist()]
        zero = torch.zeros_like(groups.mean[0])
        rows = [
            torch.stack([groups.mean[p], zero, zero]) if row is None else row for p, row in enumerate(entries)
        ]
        return stacked(rows), kept

    def unknown(self, memory: Mapping[str, Tensor], prompts: PromptBatch) -> list[int]:
        """Positions of the prompts whose scores are not remembered."""
        return [p for p, i in enumerate(prompts.index.tolist()) if prompt_key(i) not in memory]


ENTRY = Reference
