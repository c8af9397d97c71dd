"""The loss of one transition for every row of a micro-batch: clipped terms, plus KL to the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlvis.flow import noise
from rlvis.flow.logprob import reduce_positions
from rlvis.flow.transition import StepTable
from rlvis.models.policy import Policy
from rlvis.records import Advantages, Trajectories
from rlvis.schema import AdvantageConfig, KlDt, LogProbForm, RatioScope
from rlvis.update import loss as losses
from rlvis.update.replay import Batch, Replayed, replay


class LossTerm:
    """The loss of one transition for every row of a micro-batch: clipped terms, plus KL to the reference."""

    def __init__(
        self,
        policy: Policy,
        module: Callable[..., Any],
        trajectories: Trajectories,
        advantages: Advantages,
        config: AdvantageConfig,
        form: LogProbForm,
        steps: StepTable,
    ) -> None:
        """module: what predict calls. steps: of the kernel that sampled; form: of the log-prob."""
        self.policy, self.module, self.config, self.form = policy, module, config, form
        self.steps = steps
        self.free = trajectories.free.to(policy.device)
        self.coef = advantages.coef.float().to(policy.device)
        # [A, N]: this rank's rows of the global [A, P, K]; or [A, N, F, H, W], which are its rows already.
        local = advantages.field
        if local is None:
            local = advantages.term[:, trajectories.prompt, trajectories.sample].float()
        self.advantage = local
        self.map = advantages.map
        self.seed, self.policy_step = trajectories.seed, trajectories.policy_step
        self.clip = losses.resolve_clip(
            config.clip_range, config.ratio_scope, policy.latent_shape, config.map.channel_reduction
        )

    def clip_metrics(self) -> dict[str, float]:
        """The clip range of this policy (its narrower side), and how often a side may bind before it pulls
        the policy back more than it holds it.
        """
        per_position = self.config.ratio_scope is RatioScope.position
        positions = int(self.free.numel()) if per_position else 1
        return {"clip/range": min(self.clip), "clip/allowed_fraction": losses.allowed_share(positions)}

    def __call__(self, batch: Batch, new: Replayed, rows: Tensor, s: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss [B] and metrics, each [B]."""
        device = self.policy.device
        dlogp = new.logprob - batch.old_logprob[:, s]
        # Without waiting, which is safe from the CPU's plain memory: the queue of an accelerator stays full.
        advantage = self.advantage[:, rows].to(device, non_blocking=True)
        maps = None if self.map is None else self.map[rows].to(device, non_blocking=True)
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
            maps,
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
        scalar = reduce_positions(dlogp, self.free)
        return losses.guard_ratio(
            scalar,
            new.mean,
            self.old_mean(batch, new),
            level,
            sqrt_dt,
            self.free,
            self.config.guard.bias,
            self.config.ratio_scope,
        )

    def old_mean(self, batch: Batch, new: Replayed) -> Tensor:
        """The rollout's mean [B, C, F, H, W], from the state that it reached and the noise that it drew."""
        drawn = [
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
        return new.taken - new.std * torch.cat(drawn).to(new.taken.device)

    def _kl(self, batch: Batch, new: Replayed, s: int) -> Tensor:
        with self.policy.reference():
            base = replay(self.module, batch, s, self.steps, self.form)
        std = new.std.flatten() if self.config.kl_dt is KlDt.dt else self._level(new.step)[0]
        return losses.kl(new.mean, base.mean, std, self.free)
