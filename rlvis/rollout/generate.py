"""Pictures and clips from the policy by the deterministic sampler: for sample sheets and evaluation, never
for training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlvis.flow import noise
from rlvis.flow.kernel import Kernel
from rlvis.flow.transition import table
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch, Schedule

FIXED = (
    -1
)  # the "step" whose noise every sheet uses, so that pictures of one prompt can be compared over training


@torch.no_grad()
def generate(
    policy: Policy,
    module: Callable[..., Any],
    prompts: PromptBatch,
    schedule: Schedule,
    *,
    seed: int,
    micro_batch: int,
) -> Tensor:
    """One sample per prompt along the ODE, from noise that depends on seed and prompt alone.

    Args:
        policy: predict and decode.
        module: what predict calls.
        prompts: P prompts with embeds.
        schedule: noise levels; any number of steps.
        seed: of the run.
        micro_batch: rows of one forward.

    Returns:
        Frames uint8 [P,M,3,Y,X] on the CPU.
    """
    steps = table(Kernel("ode", prediction=policy.prediction), schedule)
    media = []
    for part in prompts.split(micro_batch):
        n = part.rows
        embeds = {name: value.to(policy.device) for name, value in part.embeds.items()}
        start = noise.initial(
            policy.latent_shape, seed=seed, step=FIXED, prompts=part.index.tolist(), samples=[0] * n
        )
        x = policy.start(start.to(policy.device), embeds)
        for t in range(schedule.steps):
            time = schedule.time[t].to(policy.device).expand(n)
            out = policy.predict(module, x, time, embeds)
            x = policy.transition(steps, torch.full((n,), t), torch.zeros(n, dtype=torch.bool), x, out).mean
        media.append(policy.decode(x))
    return torch.cat(media)
