"""Score a recorded transition under the current weights: the same functions as in the rollout, in the same
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlvis.flow import noise
from rlvis.flow.logprob import log_prob
from rlvis.flow.transition import StepTable
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch, Trajectories
from rlvis.schema import LogProbForm, Reduction


class Replayed(NamedTuple):
    """One transition s of a micro-batch: where it went, mean and std under the current weights, log-prob per
    position.
    """

    taken: Tensor  # [B,C,F,H,W] the recorded next state, float32
    mean: Tensor  # [B,C,F,H,W] float32, carries the gradient
    std: Tensor  # [B,1,1,1,1]
    logprob: Tensor  # [B,F,H,W] float32, carries the gradient
    step: Tensor  # [B] int64 on the CPU


class Batch:
    """The rows of one forward on the policy's device: states, conditions, old log-probs."""

    def __init__(
        self,
        policy: Policy,
        prompts: PromptBatch,
        trajectories: Trajectories,
        rows: Tensor,
        *,
        mixed: bool = False,
    ) -> None:
        """mixed: whether rows may be at different steps, on this rank or another (see `Policy.predict`)."""
        device, part = policy.device, trajectories.replace(media=None).take(rows)
        self.policy, self.part, self.mixed = policy, part, mixed
        self.embeds = {k: v[part.prompt].to(device) for k, v in prompts.embeds.items()}
        self.old_logprob = part.logprob.to(device)
        # Moved once: a copy for every transition would make an accelerator wait between two of them.
        self.states, self.at = part.states.to(device), part.at.to(device)
        self.time = part.schedule.time[part.step].to(device)
        self.every = torch.arange(len(rows), device=device)
        self.index = prompts.index[part.prompt].tolist()
        self.samples = noise.names(part.sample, part.redraw)  # what the noise was drawn as

    def points(self, s: int) -> tuple[Tensor, Tensor]:
        """States [B,C,F,H,W] before and after transition s, in storage dtype, on the device."""
        at = self.at[:, s]
        return self.states[self.every, at], self.states[self.every, at + 1]


def replay(module: Callable[..., Any], batch: Batch, s: int, table: StepTable, form: LogProbForm) -> Replayed:
    """Run the policy on transition s of every row and score where the rollout went.

    Args:
        module: what predict calls (an engine, or the bare module for the reference).
        batch: the rows.
        s: 0..S-1, position in `Trajectories.step`; rows may be at different sampling steps.
        table: coefficients of the kernel that sampled.
        form: of the log-prob.
    """
    before, after = batch.points(s)
    step = batch.part.step[:, s]
    out = batch.policy.predict(module, before, batch.time[:, s], batch.embeds, mixed=batch.mixed)
    mean, std = batch.policy.transition(table, step, torch.ones(len(step), dtype=torch.bool), before, out)
    score = log_prob(after, mean, std, form, Reduction(batch.part.channel_reduction))
    return Replayed(taken=after.float(), mean=mean, std=std, logprob=score, step=step)
