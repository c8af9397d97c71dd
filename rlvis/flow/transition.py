"""A kernel on a schedule as a table of coefficients, and the one function that takes a step with it.

`transition` is called by rollout and recomputation alike, so the ratio before the first update is 1. We
depart from the releases in one rule: the last transition is deterministic and lands on x0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.flow.kernel import KERNELS, Coefficients, FlowPath, Kernel, Path, Prediction
from rlvis.records import Schedule

FLOW_SLACK = 1e-6  # rounding of a stored alpha = 1 - sigma; a variance-preserving pair is off by about sigma


@dataclass(frozen=True)
class StepTable:
    """Coefficients of every step, each [T] float64: mean = x * state + v * model output, noise std.

    std is the true one-step std of every kernel; sqrt_dt = sqrt(sigma - sigma_next); s = std / sqrt_dt, for
    `sde` the s(sigma) of the paper and what Flow-GRPO's release calls std_dev_t.
    ode_x, ode_v: the deterministic step in place of (x, v), used outside the window.
    """

    kernel: Kernel
    x: Tensor
    v: Tensor
    std: Tensor
    s: Tensor
    sqrt_dt: Tensor
    ode_x: Tensor
    ode_v: Tensor

    @property
    def steps(self) -> int:
        """Number of transitions T."""
        return int(self.std.shape[0])


class Transition(NamedTuple):
    """Mean [B,C,F,H,W] and std [B,1,1,1,1] of the next state; std 0 where it is deterministic."""

    mean: Tensor
    std: Tensor


# What a paper writes, and where it stands: x = (1 - sigma) x0 + sigma eps, v = eps - x0, dt = sigma - sigma'
#
#   ODE         x' = x - v dt                                                       table.ode_x, table.ode_v
#   SDE         x' = x - v dt - s^2 / (2 sigma) (x + (1 - sigma) v) dt + s sqrt(dt) eps     table.x, .v, .std
#   log-prob    log p(x' | x) = -(x' - mean)^2 / (2 std^2) - log std - log sqrt(2 pi)   flow/logprob.log_prob
#   loss        max(-A r, -A clip(r, 1 - c, 1 + c)),  r = exp(log p_new - log p_old)  update/loss.policy_loss
#
# Every mean is linear in (x, v), so a row of the table is a step: mean = table.x * x + table.v * v.


def table(kernel: Kernel, schedule: Schedule, deterministic_last: bool = True) -> StepTable:
    """Tabulate the kernel on a schedule, in float64 on the CPU from the float32 sigmas.

    Args:
        kernel: which transition.
        schedule: T steps; a flow's (alpha = 1 - sigma) for a kernel that needs one.
        deterministic_last: the last transition has std 0 and its mean is the model's x0. False is the
            published kernel on every step, for comparisons only: near sigma = 0 its log-probability is far
            too peaked to train on.

    Raises:
        ValueError: a kernel for flows on a schedule that is none, a grid that does not decrease, a prediction
            from which x0 cannot be computed (alpha = 0 with `epsilon`), or a kernel of the user's that
            returns something else than its contract says.
    """
    path = _path(kernel, schedule)
    found = kernel.coefficients(path)
    ode_x, ode_v = path.mix(path.alpha[1:], path.sigma[1:])
    if deterministic_last:
        final = torch.arange(schedule.steps) == schedule.steps - 1
        ode_x, ode_v = torch.where(final, path.x0_x, ode_x), torch.where(final, path.x0_v, ode_v)
        found = Coefficients(
            x=torch.where(final, path.x0_x, found.x),
            v=torch.where(final, path.x0_v, found.v),
            std=found.std.masked_fill(final, 0),
        )
    wrong = ~(found.x.isfinite() & found.v.isfinite() & found.std.isfinite() & (found.std >= 0))
    if bool(wrong.any()):
        t = int(wrong.nonzero()[0])
        values = ", ".join(f"{name} {float(value[t]):g}" for name, value in found._asdict().items())
        raise KERNELS.misfit(
            kernel.name,
            f"step {t} of {schedule.steps}, from sigma {float(path.sigma[t]):.4g} to "
            f"{float(path.sigma[t + 1]):.4g}, has {values}, and finite numbers with std >= 0 were wanted",
        )
    sqrt_dt = path.dt.sqrt()
    s = torch.where(found.std > 0, found.std / sqrt_dt, 0)
    return StepTable(kernel, *found, s=s, sqrt_dt=sqrt_dt, ode_x=ode_x, ode_v=ode_v)


def transition(table: StepTable, step: Tensor, stochastic: Tensor, x: Tensor, out: Tensor) -> Transition:
    """Mean and std of x' given x and the model's output: the one function of rollout and recomputation.

    Args:
        table: coefficients of the kernel.
        step: [B] int64, index of each row's transition; on the CPU, or where x is.
        stochastic: [B] bool, beside `step`; False takes the deterministic step with std 0.
        x: [B,C,F,H,W] current state, any float dtype.
        out: [B,C,F,H,W] model output, any float dtype; the gradient flows through it into the mean.

    Returns:
        mean [B,C,F,H,W] and std [B,1,1,1,1] on x's device in float32 (float64 when x or out is float64).

    Raises:
        ValueError: x and out differ in shape, or step and stochastic are not [B].
    """
    rows = (x.shape[0],)
    if x.shape != out.shape or x.ndim != 5 or step.shape != rows or stochastic.shape != rows:
        raise ValueError(
            "transition wants x and out of one shape [B,C,F,H,W], step [B] and stochastic [B]; got "
            f"x {list(x.shape)}, out {list(out.shape)}, step {list(step.shape)}, "
            f"stochastic {list(stochastic.shape)}"
        )
    dtype = torch.float64 if torch.float64 in (x.dtype, out.dtype) else torch.float32
    inside = torch.stack([table.x, table.v, table.std])
    outside = torch.stack([table.ode_x, table.ode_v, torch.zeros_like(table.std)])
    # Rounded before it moves, since not every accelerator knows float64; and moved without waiting for the
    # queue, which is safe towards an accelerator only.
    coefs = torch.stack([outside, inside]).to(dtype).to(step.device, non_blocking=True)
    picked = coefs[stochastic.long(), :, step].to(x.device, non_blocking=x.device.type != "cpu")
    c_x, c_v, std = (picked[:, i].view(-1, 1, 1, 1, 1) for i in range(3))
    return Transition(mean=c_x * x.to(dtype) + c_v * out.to(dtype), std=std)


def _path(kernel: Kernel, schedule: Schedule) -> Path:
    """The schedule as a kernel reads it; refuse grids on which it has no meaning."""
    sigma = schedule.sigma.to("cpu", torch.float64)
    alpha = schedule.alpha.to("cpu", torch.float64)
    flow = bool(((alpha + sigma - 1).abs() < FLOW_SLACK).all())
    if flow:
        alpha = 1 - sigma  # sigma is the truth: below 1/2 the stored float32 alpha has lost some of it
    elif kernel.needs_flow:
        raise ConfigError(
            mistake(
                f"sampler.kernel={kernel.name} is derived for flows (alpha = 1 - sigma), and the noise "
                "levels of this model are not a flow's",
                "sampler=ddim",
            )
        )
    # The last two points of a DDIM grid may coincide (steps_offset = 0); nothing else may.
    drops = sigma[:-1] > sigma[1:]
    if (
        not bool(drops[:-1].all())
        or bool(sigma[-1] > sigma[-2])
        or float(sigma[-1]) < 0
        or float(sigma[-2]) <= 0
    ):
        raise ValueError(
            f"a schedule's sigma decreases to a last value >= 0, got {[round(v, 6) for v in sigma.tolist()]}"
        )
    decoded = _decode(kernel.prediction, alpha[:-1], sigma[:-1])
    return (FlowPath if flow else Path)(alpha, sigma, *decoded)


def _decode(prediction: Prediction, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x0_x, x0_v, eps_x, eps_v) of `Path`, [T] each, from x = alpha x0 + sigma eps."""
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    if prediction == "flow":
        total = alpha + sigma
        return one / total, -sigma / total, one / total, alpha / total
    if prediction == "v_prediction":
        square = alpha.square() + sigma.square()
        return alpha / square, -sigma / square, sigma / square, alpha / square
    if prediction == "sample":
        return zero, one, one / sigma, -alpha / sigma
    if float(alpha.min()) <= 0:
        raise ValueError(
            f"prediction=epsilon cannot give x0 where alpha = 0 (sigma {float(sigma[alpha.argmin()])}): use "
            "a schedule that starts below pure noise, or prediction=flow, v_prediction or sample"
        )
    return one / alpha, -sigma / alpha, zero, one
