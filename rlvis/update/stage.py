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

from rlvis.flow import configured, noise
from rlvis.flow.kernels import StepTable, table
from rlvis.flow.logprob import reduce_positions
from rlvis.models.policy import Policy
from rlvis.records import Advantages, PolicyUpdate, PromptBatch, Trajectories
from rlvis.runtime import dist, rng
from rlvis.runtime.dist import World
from rlvis.runtime.engine import NonFiniteGradientError
from rlvis.schema import AdvantageConfig, KlDt, OldLogProb, SamplerConfig, TrainConfig
from rlvis.update import faults
from rlvis.update import loss as losses
from rlvis.update.faults import Broken
from rlvis.update.minibatch import UpdatePlan, plan
from rlvis.update.replay import Batch, Replayed, replay
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

    def __init__(self, message: str, broken: Broken) -> None:
        super().__init__(message)
        self.broken = broken


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
    form, mixed = settings.sampler.logprob, configured.own_steps(settings.sampler)
    steps = table(configured.kernel(settings.sampler, policy.prediction), trajectories.schedule)
    if settings.advantage.old_logprob is OldLogProb.recompute:
        fresh = _recompute(policy, engine, prompts, trajectories, steps, settings, world, total)
        trajectories = trajectories.replace(logprob=fresh)
    dealer = rng.generator(trajectories.seed, trajectories.policy_step, "minibatches")
    plans = plan(
        advantages.keep, settings.train.updates_per_step, settings.train.micro_batch, world.data_size, dealer
    )
    if not plans:
        log.warning("no sample of this step is trained (all invalid or dropped): the policy stays as it is")
    term = _LossTerm(policy, engine, trajectories, advantages, settings, steps, world)
    tally = Tally(trajectories)
    norms = []
    for number, one in enumerate(plans):
        finite = torch.ones((), dtype=torch.bool, device=policy.device)
        seen: list[faults.Seen] = []
        batches = one.ranks[world.data_rank]
        for i, planned in enumerate(batches):
            rows = torch.tensor(planned.rows)
            weights = torch.tensor(planned.weights, device=policy.device)
            batch = Batch(policy, prompts, trajectories, rows, mixed=mixed)
            for s in range(trajectories.step.shape[1]):
                replayed = replay(engine, batch, s, steps, form)
                per_row, metrics = term(batch, replayed, rows, s)
                # Ranks that share tokens have the same loss and each a part of its gradient, that of its
                # tokens, so the mean over all ranks is undone by their number with and without them.
                share = (
                    torch.where(weights > 0, per_row, 0.0).sum()
                    / _denominator(one, trajectories)
                    * world.size
                )
                finite &= torch.isfinite(share)
                seen.append(faults.Seen(planned.rows, weights, s, per_row.detach(), metrics["ratio_max_dev"]))
                last = i == len(batches) - 1 and s == trajectories.step.shape[1] - 1
                engine.backward(share, last=last)
                tally.add(metrics | {"loss": per_row.detach()}, weights, s, first=number == 0)
                advance()

        def again(rows: tuple[int, ...], s: int) -> None:
            batch = Batch(policy, prompts, trajectories, torch.tensor(rows), mixed=mixed)
            replay(engine, batch, s, steps, form)

        place = f"training step {trajectories.policy_step}, optimizer step {number}"
        if not dist.all_true(bool(finite)):
            layers = engine.layers(pending=True)
            found = faults.look(seen, number, prompts, trajectories, layers, policy.module, again)
            raise NonFiniteLossError(
                f"the loss of {place}, is not finite{faults.told(found)}; the weights are untouched", found
            )
        try:
            norms.append(engine.step())
        except NonFiniteGradientError as error:
            layers = dict.fromkeys(error.layers, math.nan)
            found = faults.look(seen, number, prompts, trajectories, layers, policy.module, again)
            raise NonFiniteLossError(f"{place}: {error}{faults.told(found)}", found) from error
        after_step()
    metrics, details = tally.reduced(norms)
    if norms:
        details |= {f"layer/{name}": norm for name, norm in engine.layers().items()}
    return PolicyUpdate(policy_step=trajectories.policy_step, metrics=metrics, details=details)


def _denominator(one: UpdatePlan, trajectories: Trajectories) -> int:
    return one.count * trajectories.step.shape[1]


class _LossTerm:
    """The loss of one transition for every row of a micro-batch: clipped terms, plus KL to the reference."""

    def __init__(
        self,
        policy: Policy,
        engine: TrainedModule,
        trajectories: Trajectories,
        advantages: Advantages,
        settings: UpdateSettings,
        steps: StepTable,
        world: World,
    ) -> None:
        self.policy, self.engine, self.config, self.form = (
            policy,
            engine,
            settings.advantage,
            settings.sampler.logprob,
        )
        self.steps = steps
        self.free = trajectories.free.to(policy.device)
        self.coef = advantages.coef.float().to(policy.device)
        # [A, N]: this rank's rows of the global [A, P, K]; or [A, N, F, H, W], which are its rows already.
        self.advantage = advantages.field
        if self.advantage is None:
            self.advantage = advantages.term[:, trajectories.prompt, trajectories.sample].float()
        self.map = advantages.map
        self.seed, self.policy_step = trajectories.seed, trajectories.policy_step
        reduction = settings.advantage.map.channel_reduction
        self.clip = losses.resolve_clip(
            self.config.clip_range, self.config.ratio_scope, policy.latent_shape, reduction
        )

    def __call__(self, batch: Batch, new: Replayed, rows: Tensor, s: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss [B] and metrics, each [B]."""
        device = self.policy.device
        dlogp = new.logprob - batch.old_logprob[:, s]
        # Without waiting, which is safe from the CPU's plain memory: the queue of an accelerator stays full.
        advantage = self.advantage[:, rows].to(device, non_blocking=True)
        area = None if self.map is None else self.map[rows].to(device, non_blocking=True)
        guarded, scale = None, None
        if self.config.guard is not None:
            guarded, scale = self._guard(batch, new, dlogp)
        per_row, metrics = losses.policy_loss(
            dlogp,
            self.free,
            advantage,
            self.coef,
            self.clip,
            self.config.ratio_scope,
            area,
            guarded,
        )
        if scale is not None:
            per_row = per_row * scale
        if self.config.kl_beta > 0:
            penalty = self._kl(batch, new, s)
            per_row = per_row + self.config.kl_beta * penalty
            metrics["kl_reference"] = penalty.detach()
        return per_row, metrics

    def _level(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """s and sqrt(dt) of each row's transition, [B] on the device."""
        device = self.policy.device
        return self.steps.s[step].float().to(device), self.steps.sqrt_dt[step].float().to(device)

    def _guard(self, batch: Batch, new: Replayed, dlogp: Tensor) -> tuple[Tensor, Tensor]:
        assert self.config.guard is not None
        level, sqrt_dt = self._level(new.step)
        drawn = torch.cat(
            [
                noise.of_transition(
                    self.policy.latent_shape,
                    int(t),
                    seed=self.seed,
                    step=self.policy_step,
                    prompts=[batch.index[i]],
                    samples=[batch.samples[i]],
                )
                for i, t in enumerate(new.step)
            ]
        )
        # The rollout's mean, from the state it reached and the noise it drew.
        mean_old = new.taken - new.std * drawn.to(new.taken.device)
        scalar = reduce_positions(dlogp, self.free)
        return losses.guard_ratio(
            scalar,
            new.mean,
            mean_old,
            level,
            sqrt_dt,
            self.free,
            self.config.guard.bias,
            self.config.ratio_scope,
        )

    def _kl(self, batch: Batch, new: Replayed, s: int) -> Tensor:
        with self.policy.reference():
            base = replay(self.engine, batch, s, self.steps, self.form)
        std = new.std.flatten() if self.config.kl_dt is KlDt.dt else self._level(new.step)[0]
        return losses.kl(new.mean, base.mean, std, self.free)


@torch.no_grad()
def _recompute(
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
    size = settings.train.micro_batch
    most = max(len(World(rank, world.data_size).rows(total)) for rank in range(world.data_size))
    fresh = torch.empty_like(trajectories.logprob)
    for start in range(0, most, size):
        rows = torch.arange(start, start + size).clamp(max=trajectories.rows - 1)
        batch = Batch(policy, prompts, trajectories, rows, mixed=configured.own_steps(settings.sampler))
        for s in range(trajectories.step.shape[1]):
            fresh[rows, s] = replay(engine, batch, s, steps, settings.sampler.logprob).logprob.cpu()
    return fresh
