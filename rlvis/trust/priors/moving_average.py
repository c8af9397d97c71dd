"""The exponential mean of group means over the run (arXiv 2511.18919, text to image), or one a prompt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.records import PromptBatch
from rlvis.schema import PriorScope
from rlvis.trust.groups import Groups, summary
from rlvis.trust.prior import Anchor, Memory, Prior, prompt_key, stacked


class MovingAverage(Prior):
    """Exponential mean of group means, and the variance of group means around it.

    Before the first step (of the run, or of a prompt) it is that step's own mean with count 0. scope: one
    mean, or one a prompt. decay: weight of the past.
    """

    def __init__(self, scope: PriorScope, decay: float) -> None:
        self.scope, self.decay = scope, decay

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """The means before this step, and those after it."""
        per_prompt = self.scope == PriorScope.prompt
        keys = [prompt_key(i) if per_prompt else "all" for i in prompts.index.tolist()]
        scored = groups.count[:, 0] > 0
        after, before = dict(memory), {}
        for key in sorted(set(keys)):
            members = torch.tensor([k == key for k in keys]) & scored
            past = memory.get(key)
            now = summary(groups.mean[members])
            if past is not None:
                before[key] = past
                after[key] = past if now is None else _blend(past, now, self.decay)
            elif now is None:  # no sample of it could be scored: nothing to start from
                before[key] = torch.zeros(3, groups.mean.shape[1], dtype=torch.float64)
            else:
                before[key] = torch.stack([now[0], now[1], torch.zeros_like(now[2])])
                after[key] = now
        return stacked([before[key] for key in keys]), after


def _blend(past: Tensor, now: Tensor, decay: float) -> Tensor:
    """past with weight decay and now with 1 - decay, as moments of the mixture; counts add up."""
    (mean, var, count), (new_mean, new_var, new_count) = past, now
    gap = new_mean - mean
    blended = mean + (1 - decay) * gap
    return torch.stack(
        [blended, decay * (var + (1 - decay) * gap.square()) + (1 - decay) * new_var, count + new_count]
    )


ENTRY = MovingAverage
