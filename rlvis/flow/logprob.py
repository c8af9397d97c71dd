"""Log-probability of a transition per latent position, and the draw that it scores.

A draw is rounded to the dtype in which it is stored before it is scored, so the update, which sees the stored
state, finds the same number: the ratio before the first update is exactly 1 at equal shapes. Sources: DDPO
2305.13301, Flow-GRPO 2505.05470, Flow-CPS (`squared`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlvis.flow.transition import StepTable
from rlvis.schema import LogProbForm, Reduction


def draw(mean: Tensor, std: Tensor, noise: Tensor, storage: torch.dtype) -> Tensor:
    """Sample x' = mean + std * noise, rounded to the dtype it is stored in; no gradient.

    Args:
        mean: [B,C,F,H,W] float32.
        std: [B,1,1,1,1], 0 where the transition is deterministic.
        noise: [B,C,F,H,W] standard normal.
        storage: float dtype of the stored states.

    Returns:
        x' [B,C,F,H,W] in `storage`: score this, not the unrounded value.
    """
    if not storage.is_floating_point:
        raise ValueError(f"states are stored in a float dtype, got {storage}")
    return (mean.detach() + std.detach() * noise.to(mean.dtype)).to(storage)


def log_prob(
    sample: Tensor,
    mean: Tensor,
    std: Tensor,
    form: LogProbForm = LogProbForm.gaussian,
    channel_reduction: Reduction = Reduction.mean,
) -> Tensor:
    """Log-probability of `sample` per position, channels reduced.

    gaussian: -(x' - mean)^2 / (2 std^2) - log std - log sqrt(2 pi).
    squared: -(x' - mean)^2, as Flow-CPS publishes it: no variance, so the ratio scales with std^2.

    Args:
        sample: [B,C,F,H,W] the stored x', any float dtype; detached.
        mean: [B,C,F,H,W] float32 or float64, not detached: the gradient reaches the policy through it.
        std: [B,1,1,1,1].
        form: see above.
        channel_reduction: over C, `mean` (scale of Flow-GRPO and DanceGRPO) or `sum` (ViPO's release).

    Returns:
        [B,F,H,W] in mean's dtype.

    Raises:
        ValueError: an unknown option, shapes that do not fit, or a std of 0 with `gaussian` (seen here on a
            CPU only; on an accelerator that would stall the queue, call `require_stochastic` on the step
            indices instead).
    """
    if sample.shape != mean.shape or mean.ndim != 5 or std.shape != (mean.shape[0], 1, 1, 1, 1):
        raise ValueError(
            "log_prob wants sample and mean of one shape [B,C,F,H,W] and std [B,1,1,1,1]; got "
            f"sample {list(sample.shape)}, mean {list(mean.shape)}, std {list(std.shape)}"
        )
    if channel_reduction not in tuple(Reduction):
        raise ValueError(f"channel_reduction must be 'mean' or 'sum', got {channel_reduction!r}")
    channels = mean.shape[1] if channel_reduction == Reduction.sum else 1
    square = (sample.detach().to(mean.dtype) - mean).square()
    square = square.sum(1) if channel_reduction == Reduction.sum else square.mean(1)
    if form == LogProbForm.squared:
        return -square
    if form != LogProbForm.gaussian:
        raise ValueError(f"log-prob form must be 'gaussian' or 'squared', got {form!r}")
    if std.device.type == "cpu" and not bool((std > 0).all()):
        raise ValueError(_no_density(f"rows {(std.flatten() <= 0).nonzero().flatten().tolist()} have std 0"))
    std = std.squeeze(1)
    return -square / (2 * std.square()) - channels * (std.log() + 0.5 * math.log(2 * math.pi))


def require_stochastic(table: StepTable, steps: Tensor) -> None:
    """Check that every trained transition has a density: on the CPU, once per rollout.

    Args:
        table: coefficients of the kernel.
        steps: any shape, int64 on the CPU: the transitions whose log-probability will be asked for.

    Raises:
        ValueError: one of them is deterministic (kernel `ode`, the last transition, or eta = 0).
    """
    assert steps.device.type == "cpu", (
        "step indices are checked on the CPU, where reading them does not stall"
    )
    silent = sorted(set(steps[table.std[steps] <= 0].tolist()))
    if silent:
        kernel = table.kernel
        raise ValueError(
            _no_density(
                f"steps {silent} of {table.steps} have std 0 under kernel={kernel.name}, eta={kernel.eta}"
            )
        )


def reduce_positions(logp: Tensor, free: Tensor | None = None) -> Tensor:
    """Mean over the positions that the policy moves: of log-probs, and of losses, maps and distances.

    Args:
        logp: [B,F,H,W].
        free: [F,H,W], nonzero where the policy moves the latent; None is everywhere.

    Returns:
        [B]; positions that are not free contribute neither value nor gradient.

    Raises:
        ValueError: `free` has another shape, or no free position (the latter seen on a CPU only).
    """
    if free is None:
        return logp.mean((1, 2, 3))
    if free.shape != logp.shape[1:]:
        raise ValueError(f"free wants shape {list(logp.shape[1:])} [F,H,W], got {list(free.shape)}")
    mask = free != 0
    if mask.device.type == "cpu" and not bool(mask.any()):
        raise ValueError("free is 0 everywhere: the policy moves no position, so there is nothing to train")
    return torch.where(mask, logp, 0).sum((1, 2, 3)) / mask.sum()


def _no_density(what: str) -> str:
    return (
        f"{what}: a deterministic transition has no log-probability. Train other steps (never the last), "
        "or use a sampler.kernel that adds noise, with sampler.eta > 0"
    )
