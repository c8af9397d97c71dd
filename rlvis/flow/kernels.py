"""Transition kernels of the sampler: one step from x at sigma to x' at sigma_next, Gaussian or deterministic.

Every kernel is linear in (x, model output), so it is a table of coefficients per step, computed once in
float64 from the float32 sigmas. `transition` applies it; rollout and recomputation call nothing else. We
depart from the releases in one rule: the last transition is deterministic and lands on x0. Sources: Flow-GRPO
2505.05470, DanceGRPO 2505.07818, Flow-CPS, DDPO 2305.13301.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rlvis.records import Schedule

KernelName = Literal["sde", "cps", "ddim", "ode"]
NoiseName = Literal["flow", "dance", "wan", "flow_clipped"]
Prediction = Literal["flow", "epsilon", "v_prediction", "sample"]

FIRST_STEP = 1 - 1e-3  # a first sigma above this takes 1 - sigma_1 in the noise level of `flow`
FLOW_SLACK = 1e-6  # rounding of a stored alpha = 1 - sigma; a variance-preserving pair is off by about sigma
CLIPPED_STD = 0.45  # upper bound of the one-step std of `flow_clipped` (LongCat-Video, arXiv 2510.22200)


@dataclass(frozen=True)
class Kernel:
    """What one transition is.

    name: `sde` (Flow-SDE and its kin), `cps` (coefficients-preserving sampling), `ddim` (DDIM with eta) or
        `ode`.
    noise: s(sigma) of `sde`: `flow` eta sqrt(sigma / (1 - sigma)), `dance` eta, `wan` the line from sigma_min
        to sigma_max without an eta, `flow_clipped` the smaller of `flow` and .45 / sqrt(dt). The other
        kernels have no choice of noise.
    eta: noise level; `ode` has none and ignores it.
    prediction: what the model returns. `flow` is eps - x0, `v_prediction` is alpha eps - sigma x0.

    Raises:
        ValueError: an unknown name, or an eta outside the kernel's range.
    """

    name: KernelName
    noise: NoiseName = "flow"
    eta: float = 0.7
    prediction: Prediction = "flow"

    def __post_init__(self) -> None:
        """Check names and the range of eta."""
        for field, allowed in (("name", KernelName), ("noise", NoiseName), ("prediction", Prediction)):
            if getattr(self, field) not in get_args(allowed):
                raise ValueError(
                    f"kernel {field} must be one of {', '.join(get_args(allowed))}, got "
                    f"{getattr(self, field)!r}"
                )
        if self.name == "sde" and self.noise == "wan" and self.eta != 1:
            raise ValueError(f"noise=wan takes its level from the sigma grid: set eta=1, got eta={self.eta}")
        top = 1.0 if self.name in ("cps", "ddim") else math.inf
        if self.name != "ode" and not 0 <= self.eta <= top:
            raise ValueError(f"kernel={self.name} needs eta in [0, {top:g}], got {self.eta}")


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


class _Decode(NamedTuple):
    """x0 = x0_x * state + x0_v * output and eps = eps_x * state + eps_v * output, each [T] float64."""

    x0_x: Tensor
    x0_v: Tensor
    eps_x: Tensor
    eps_v: Tensor


# What a paper writes, and where it stands: x = (1 - sigma) x0 + sigma eps, v = eps - x0, dt = sigma - sigma'
#
#   ODE         x' = x - v dt                                                       table.ode_x, table.ode_v
#   SDE         x' = x - v dt - s^2 / (2 sigma) (x + (1 - sigma) v) dt + s sqrt(dt) eps     table.x, .v, .std
#   log-prob    log p(x' | x) = -(x' - mean)^2 / (2 std^2) - log std - log sqrt(2 pi)   flow/logprob.log_prob
#   loss        max(-A r, -A clip(r, 1 - c, 1 + c)),  r = exp(log p_new - log p_old)  update/loss.policy_loss
#
# Every mean is linear in (x, v), so a row of the table is a step: mean = table.x * x + table.v * v.


def table(kernel: Kernel, schedule: Schedule, deterministic_last: bool = True) -> StepTable:
    """Tabulate the kernel on a schedule, in float64 on the CPU.

    Args:
        kernel: which transition.
        schedule: T steps; `sde` needs a flow schedule (alpha = 1 - sigma).
        deterministic_last: the last transition has std 0 and its mean is the model's x0. False is the
            published kernel on every step, for comparisons only: near sigma = 0 its log-probability is far
            too peaked to train on.

    Raises:
        ValueError: `sde` on a schedule that is not a flow, a grid that does not decrease, or a prediction
            from which x0 cannot be computed (alpha = 0 with `epsilon`).
    """
    sigmas = schedule.sigma.to("cpu", torch.float64)
    alphas = schedule.alpha.to("cpu", torch.float64)
    flow = bool(((alphas + sigmas - 1).abs() < FLOW_SLACK).all())
    if flow:
        alphas = 1 - sigmas  # sigma is the truth: below 1/2 the stored float32 alpha has lost some of it
    _check(kernel, sigmas, flow)
    decode = _decode(kernel.prediction, alphas[:-1], sigmas[:-1])
    dt = sigmas[:-1] - sigmas[1:]
    ode_x, ode_v = _interpolate(decode, alphas[1:], sigmas[1:])
    if kernel.name == "sde":
        x, v, std = _sde(kernel, sigmas, decode)
    elif kernel.name == "ode":
        x, v, std = ode_x, ode_v, torch.zeros_like(dt)
    else:
        cps = kernel.name == "cps"
        std = _cps_std(kernel, sigmas) if cps else _ddim_std(kernel, alphas, sigmas)
        x, v = _interpolate(decode, alphas[1:], (sigmas[1:].square() - std.square()).clamp(min=0).sqrt())
    if deterministic_last:
        final = torch.arange(len(dt)) == len(dt) - 1
        x, ode_x = torch.where(final, decode.x0_x, x), torch.where(final, decode.x0_x, ode_x)
        v, ode_v = torch.where(final, decode.x0_v, v), torch.where(final, decode.x0_v, ode_v)
        std = std.masked_fill(final, 0)
    sqrt_dt = dt.sqrt()
    s = torch.where(std > 0, std / sqrt_dt, 0)
    return StepTable(kernel=kernel, x=x, v=v, std=std, s=s, sqrt_dt=sqrt_dt, ode_x=ode_x, ode_v=ode_v)


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


def _check(kernel: Kernel, sigmas: Tensor, flow: bool) -> None:
    """Refuse grids on which the kernel has no meaning."""
    if kernel.name == "sde" and not flow:
        raise ValueError(
            "kernel=sde is derived for flow schedules (alpha = 1 - sigma), and this schedule is not one: "
            "use kernel=ddim for a variance-preserving model"
        )
    # The last two points of a DDIM grid may coincide (steps_offset = 0); nothing else may.
    drops = sigmas[:-1] > sigmas[1:]
    if (
        not bool(drops[:-1].all())
        or bool(sigmas[-1] > sigmas[-2])
        or float(sigmas[-1]) < 0
        or float(sigmas[-2]) <= 0
    ):
        raise ValueError(
            f"a schedule's sigma decreases to a last value >= 0, got {[round(v, 6) for v in sigmas.tolist()]}"
        )


def _decode(prediction: Prediction, alpha: Tensor, sigma: Tensor) -> _Decode:
    """x0 and eps as linear functions of (x, model output), from x = alpha x0 + sigma eps."""
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    if prediction == "flow":
        total = alpha + sigma
        return _Decode(one / total, -sigma / total, one / total, alpha / total)
    if prediction == "v_prediction":
        square = alpha.square() + sigma.square()
        return _Decode(alpha / square, -sigma / square, sigma / square, alpha / square)
    if prediction == "sample":
        return _Decode(zero, one, one / sigma, -alpha / sigma)
    if float(alpha.min()) <= 0:
        raise ValueError(
            f"prediction=epsilon cannot give x0 where alpha = 0 (sigma {float(sigma[alpha.argmin()])}): use "
            "a schedule that starts below pure noise, or prediction=flow, v_prediction or sample"
        )
    return _Decode(one / alpha, -sigma / alpha, zero, one)


def _interpolate(decode: _Decode, x0_weight: Tensor, eps_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (x, v) of x0_weight * x0 + eps_weight * eps."""
    x = x0_weight * decode.x0_x + eps_weight * decode.eps_x
    return x, x0_weight * decode.x0_v + eps_weight * decode.eps_v


def _sde(kernel: Kernel, sigmas: Tensor, decode: _Decode) -> tuple[Tensor, Tensor, Tensor]:
    """Euler-Maruyama step of the reverse SDE with the flow's marginals (Flow-GRPO), on eps - x0.

    mean = x - v dt - (s^2 / 2 sigma) (x + (1 - sigma) v) dt with dt = sigma - sigma_next, std = s sqrt(dt).
    """
    sigma, dt = sigmas[:-1], sigmas[:-1] - sigmas[1:]
    s = _strength(kernel, sigmas)
    pull = s.square() / (2 * sigma) * dt
    c_x, c_v = 1 - pull, -(dt + pull * (1 - sigma))
    velocity_x, velocity_v = decode.eps_x - decode.x0_x, decode.eps_v - decode.x0_v
    return c_x + c_v * velocity_x, c_v * velocity_v, s * dt.sqrt()


def _strength(kernel: Kernel, sigmas: Tensor) -> Tensor:
    """s(sigma) [T] of kernel `sde`, without sqrt(dt)."""
    sigma, dt = sigmas[:-1], sigmas[:-1] - sigmas[1:]
    if kernel.noise == "dance":
        return torch.full_like(sigma, kernel.eta)
    if kernel.noise == "wan":
        low, high = sigmas[-1], sigmas[1]
        return low + (high - low) * sigma
    distance = 1 - sigma
    if float(sigma[0]) > FIRST_STEP:
        # By step index: an equality test with 1 never fires on UniPC grids, where s would be 55 to 993 eta.
        distance[0] = 1 - sigmas[1]
    s = kernel.eta * (sigma / distance).sqrt()
    return torch.minimum(s, CLIPPED_STD / dt.sqrt()) if kernel.noise == "flow_clipped" else s


def _cps_std(kernel: Kernel, sigmas: Tensor) -> Tensor:
    """Flow-CPS: a share of the next noise level is drawn anew, the rest is kept."""
    return sigmas[1:] * math.sin(kernel.eta * math.pi / 2)


def _ddim_std(kernel: Kernel, alphas: Tensor, sigmas: Tensor) -> Tensor:
    """DDIM (Song et al. 2021, eq. 16) for any Gaussian path: eta times the posterior's std.

    eta sigma_next sqrt(1 - (alpha sigma_next / (alpha_next sigma))^2), which has no 1 - abar to cancel.
    """
    kept = (alphas[:-1] * sigmas[1:]) / (alphas[1:] * sigmas[:-1])
    return kernel.eta * sigmas[1:] * (1 - kept.square()).clamp(min=0).sqrt()
