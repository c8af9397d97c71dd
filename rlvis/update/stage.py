"""Stage 5, update: trajectories and advantages in, optimizer steps on the policy, scalars out.

Every optimizer step walks its micro-batches and, inside, the S trained transitions: one forward and one
backward each, in the same order and number on every rank. The denominator is the planned number of (sample,
transition) of that step over all ranks, known from the records, so that accumulation, padding and placement
change nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvis.flow import configured
from rlvis.flow.transition import StepTable, table
from rlvis.models.policy import Policy
from rlvis.records import Advantages, PolicyUpdate, PromptBatch, Trajectories
from rlvis.runtime import dist, rng
from rlvis.runtime.dist import World
from rlvis.runtime.engine import NonFiniteGradientError
from rlvis.runtime.non_finite import NonFinite, ReplayedBatch, trace_update
from rlvis.schema import AdvantageConfig, OldLogProb, SamplerConfig, TrainConfig
from rlvis.update.loss_term import LossTerm
from rlvis.update.minibatch import UpdatePlan, plan
from rlvis.update.replay import Batch, replay
from rlvis.update.tally import Tally

log = logging.getLogger(__name__)


class TrainedModule(Protocol):
    """What an update needs of the engine."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward of the trained module."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate gradients."""

    def step(self) -> float:
        """One optimizer step; the gradient's norm."""

    def layers(self, *, pending: bool = False) -> dict[str, float]:
        """Gradient norm of each block at the last step, or of what has been accumulated since."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient was NaN or infinite; raised on all ranks before the optimizer has stepped."""

    def __init__(self, message: str, where: NonFinite) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class UpdateSettings:
    """The config groups an update reads."""

    advantage: AdvantageConfig
    sampler: SamplerConfig
    train: TrainConfig


def update(
    policy: Policy,
    engine: TrainedModule,
    prompts: PromptBatch,
    trajectories: Trajectories,
    advantages: Advantages,
    settings: UpdateSettings,
    world: World,
    *,
    after_step: Callable[[], None] = lambda: None,
    advance: Callable[[], None] = lambda: None,
) -> PolicyUpdate:
    """Take the optimizer steps of one training step.

    Args:
        policy: predict and reference.
        engine: the trained module, sharded or not.
        prompts: P prompts with embeds.
        trajectories: this rank's rows, in the order it owns them.
        advantages: global terms, local map or field.
        settings: how.
        world: this rank among all.
        after_step: called after every optimizer step (EMA).
        advance: called after every forward and backward (progress).

    Returns:
        Scalars, equal on all ranks; by transition and layer in `details`.

    Raises:
        NonFiniteLossError: before the optimizer step that would have spoiled the weights.
        ValueError: the records do not belong together.
    """
    _check_records(policy, trajectories, advantages, world)
    sampler, form = settings.sampler, settings.sampler.logprob
    steps = table(configured.kernel(sampler, policy.prediction), trajectories.schedule)
    if settings.advantage.old_logprob is OldLogProb.recompute:
        fresh = _recompute_logprob(
            policy, engine, prompts, trajectories, steps, settings, world, advantages.keep.numel()
        )
        trajectories = trajectories.replace(logprob=fresh)
    dealer = rng.generator(trajectories.seed, trajectories.policy_step, "minibatches")
    plans = plan(
        advantages.keep, settings.train.updates_per_step, settings.train.micro_batch, world.data_size, dealer
    )
    if not plans:
        log.warning("no sample of this step is trained (all invalid or dropped): the policy stays as it is")
    term = LossTerm(policy, engine, trajectories, advantages, settings.advantage, form, steps)
    tally = Tally(trajectories)
    walk = _Walk(policy, engine, prompts, trajectories, sampler, steps, term, tally, world, advance)
    norms = []
    for number, one in enumerate(plans):
        norms.append(walk.optimizer_step(number, one))
        after_step()
    metrics, details = tally.reduce(norms)
    if norms:
        details |= {f"layer/{name}": norm for name, norm in engine.layers().items()}
        metrics |= term.clip_metrics()
    return PolicyUpdate(policy_step=trajectories.policy_step, metrics=metrics, details=details)


@dataclass(frozen=True)
class _Walk:
    """What the optimizer steps of one training step share."""

    policy: Policy
    engine: TrainedModule
    prompts: PromptBatch
    trajectories: Trajectories
    sampler: SamplerConfig
    steps: StepTable
    term: LossTerm
    tally: Tally
    world: World
    advance: Callable[[], None]

    def optimizer_step(self, number: int, one: UpdatePlan) -> float:
        """Accumulate the gradient of a plan and step; the gradient's norm. Raises NonFiniteLossError."""
        finite, batches = self._accumulate(number, one)
        place = f"training step {self.trajectories.policy_step}, optimizer step {number}"
        if not dist.all_true(finite):
            where = self._trace(number, batches, self.engine.layers(pending=True))
            raise NonFiniteLossError(
                f"the loss of {place}, is not finite{where}; the weights are untouched", where
            )
        try:
            return self.engine.step()
        except NonFiniteGradientError as error:
            where = self._trace(number, batches, dict.fromkeys(error.layers, math.nan))
            raise NonFiniteLossError(f"{place}: {error}{where}", where) from error

    def _accumulate(self, number: int, one: UpdatePlan) -> tuple[bool, list[ReplayedBatch]]:
        """Forward and backward of every micro-batch and transition; whether all losses were finite."""
        device, transitions = self.policy.device, self.trajectories.step.shape[1]
        finite = torch.ones((), dtype=torch.bool, device=device)
        replayed: list[ReplayedBatch] = []
        planned = one.ranks[self.world.data_rank]
        for i, micro_batch in enumerate(planned):
            rows, weights = torch.tensor(micro_batch.rows), torch.tensor(micro_batch.weights, device=device)
            batch = self._batch(micro_batch.rows)
            for s in range(transitions):
                new = replay(self.engine, batch, s, self.steps, self.sampler.logprob)
                per_row, metrics = self.term(batch, new, rows, s)
                # Ranks that share tokens have the same loss and each a part of its gradient, that of its
                # tokens, so the mean over all ranks is undone by their number with and without them.
                loss = torch.where(weights > 0, per_row, 0.0).sum() / (one.count * transitions)
                loss = loss * self.world.size
                finite &= torch.isfinite(loss)
                deviation = metrics["ratio_max_dev"]
                replayed.append(ReplayedBatch(micro_batch.rows, weights, s, per_row.detach(), deviation))
                self.engine.backward(loss, last=i == len(planned) - 1 and s == transitions - 1)
                self.tally.add(metrics | {"loss": per_row.detach()}, weights, s, first=number == 0)
                self.advance()
        return bool(finite), replayed

    def _batch(self, rows: tuple[int, ...]) -> Batch:
        mixed = configured.per_sample_steps(self.sampler)
        return Batch(self.policy, self.prompts, self.trajectories, torch.tensor(rows), mixed=mixed)

    def _trace(self, number: int, batches: list[ReplayedBatch], layers: dict[str, float]) -> NonFinite:
        def forward(rows: tuple[int, ...], s: int) -> None:
            replay(self.engine, self._batch(rows), s, self.steps, self.sampler.logprob)

        module = self.policy.module
        return trace_update(batches, number, self.prompts, self.trajectories, layers, module, forward)


def _check_records(policy: Policy, trajectories: Trajectories, advantages: Advantages, world: World) -> None:
    """Raise ValueError where the records do not belong together."""
    total = advantages.keep.numel()
    if trajectories.rows != len(world.rows(total)):
        raise ValueError(
            f"rank {world.rank} owns {len(world.rows(total))} of {total} rows, "
            f"but was given {trajectories.rows} trajectories"
        )
    if not torch.equal(trajectories.free, policy.free.cpu()):
        raise ValueError(
            f"these trajectories move {int(trajectories.free.sum())} of {trajectories.free.numel()} "
            f"positions {list(trajectories.free.shape)} and the policy moves {int(policy.free.sum())} of "
            f"{list(policy.free.shape)}: they were sampled with another model.condition or another size; "
            "type model.condition=first_frame (or none), as in the rollout"
        )


@torch.no_grad()
def _recompute_logprob(
    policy: Policy,
    engine: TrainedModule,
    prompts: PromptBatch,
    trajectories: Trajectories,
    steps: StepTable,
    settings: UpdateSettings,
    world: World,
    total: int,
) -> Tensor:
    """Old log-probs [N,S,F,H,W] from the current weights: the same number of forwards on every rank."""
    size, mixed = settings.train.micro_batch, configured.per_sample_steps(settings.sampler)
    most = max(len(World(rank, world.data_size).rows(total)) for rank in range(world.data_size))
    fresh = torch.empty_like(trajectories.logprob)
    for start in range(0, most, size):
        rows = torch.arange(start, start + size).clamp(max=trajectories.rows - 1)
        batch = Batch(policy, prompts, trajectories, rows, mixed=mixed)
        for s in range(trajectories.step.shape[1]):
            fresh[rows, s] = replay(engine, batch, s, steps, settings.sampler.logprob).logprob.cpu()
    return fresh
