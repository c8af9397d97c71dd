"""What one rollout will do, decided before the first forward: grid, coefficients, and which transitions are
trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlvis.flow import configured, windows
from rlvis.flow.logprob import require_stochastic
from rlvis.flow.transition import StepTable, table
from rlvis.models.policy import Policy
from rlvis.records import Schedule
from rlvis.runtime import rng
from rlvis.schema import Config, Reduction, SamplerConfig


class RowSteps(NamedTuple):
    """Of each row: which transitions are trained, int64 [n, S], and which add noise, bool [n, T]."""

    trained: Tensor
    stochastic: Tensor


@dataclass(frozen=True)
class SamplingPlan:
    """Everything a rollout of training step `step` needs besides policy, prompts and rows."""

    sampler: SamplerConfig
    schedule: Schedule
    table: StepTable
    storage: torch.dtype
    channel_reduction: Reduction
    micro_batch: int
    samples_per_prompt: int
    seed: int
    step: int
    redraw: int = 0  # round of a refill, which draws the step's samples once more

    @property
    def per_sample_steps(self) -> bool:
        """Whether every sample has its own trained transitions."""
        return configured.per_sample_steps(self.sampler)

    def steps_of(self, prompts: Sequence[int], samples: Sequence[int]) -> RowSteps:
        """What is trained and what adds noise, for rows given by (index in the data set, sample).

        The choice is shared by the whole training step, on all ranks, unless `sampler.window.per_sample`.
        """
        config = self.sampler.window
        if self.per_sample_steps:
            drawn: np.random.Generator | list[np.random.Generator] = [
                rng.generator(self.seed, self.step, "window", prompt=p, sample=k)
                for p, k in zip(prompts, samples, strict=True)
            ]
        else:
            drawn = rng.generator(self.seed, self.step, "window")
        end = self.schedule.steps - 1
        chosen = windows.select(
            config.kind,
            self.schedule.steps,
            rng=drawn,
            fraction=self.sampler.timestep_fraction,
            start=config.start,
            size=config.size,
            low=config.low,
            high=end if config.high is None else config.high,
            iteration=max(self.step, 0),  # samples outside training have steps below 0
            iters_per_group=config.iters_per_group,
            stride=config.stride,
            roll_back=config.roll_back,
        )
        n = len(prompts)
        trained, stochastic = torch.from_numpy(chosen.trained), torch.from_numpy(chosen.stochastic)
        if trained.ndim == 1:
            trained, stochastic = trained.expand(n, -1), stochastic.expand(n, -1)
        require_stochastic(self.table, trained)
        return RowSteps(trained, stochastic)


def make(policy: Policy, config: Config, step: int, redraw: int = 0) -> SamplingPlan:
    """The plan of training step `step`, or of a round of its refill.

    Raises:
        ValueError: the sampler does not fit the policy's schedule, or the window is empty.
    """
    sampler = config.sampler
    schedule = policy.schedule(sampler.steps, sampler.shift, sampler.grid)
    return SamplingPlan(
        sampler=sampler,
        schedule=schedule,
        table=table(configured.kernel(sampler, policy.prediction), schedule),
        storage=configured.storage(sampler),
        channel_reduction=config.advantage.map.channel_reduction,
        micro_batch=config.train.micro_batch,
        samples_per_prompt=config.data.samples_per_prompt,
        seed=config.seed,
        step=step,
        redraw=redraw,
    )


def kept_points(trained: Tensor, steps: int, *, shared: bool) -> tuple[Tensor, Tensor]:
    """Grid points to keep per row, and where each trained transition starts among them.

    Args:
        trained: [n, S] increasing step indices. steps: T. shared: whether all rows of the training step have
        the same ones. Else the number kept depends on S and T alone, so
            that pieces of one rollout have one shape.

    Returns:
        points [n, V] (rows that touch fewer points repeat their last) and at [n, S].
    """
    n, count = trained.shape
    touched = [sorted({p for t in row for p in (t, t + 1)}) for row in trained.tolist()]
    width = len(touched[0]) if shared else min(2 * count, steps)
    points = torch.tensor([row + [row[-1]] * (width - len(row)) for row in touched], dtype=torch.int64)
    at = torch.tensor(
        [[row.index(t) for t in steps] for row, steps in zip(touched, trained.tolist(), strict=True)]
    )
    return points, at.view(n, count)
