"""Sigma grids of the published samplers, computed here instead of taken from a library that changes them.

Every function returns a `Schedule`: sigma as the float32 truth, alpha, and the model's own time input per
step. Flow grids have x = (1 - sigma) x0 + sigma eps; `ddim` is variance preserving. Unusual: the SD3 grid is
shifted twice (its end is already shifted), and UniPC grids never start at 1. Sources: diffusers schedulers,
DanceGRPO, MixGRPO, DDPO.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvis.records import Schedule

TimeRule = Literal["scaled", "truncated"]
Floats = NDArray[np.float64]

TRAIN_STEPS = 1000  # the unit of model time of every flow model published so far


def flow_schedule(sigma: Tensor, time: TimeRule = "scaled") -> Schedule:
    """Make a flow `Schedule` from a grid of our own, e.g. one that a checkpoint's scheduler gave.

    Args:
        sigma: [T+1], strictly decreasing inside (0, 1] with a last value >= 0; rounded to float32, which is
            then the truth.
        time: model time per step; `scaled` is sigma * 1000 in float32. `truncated` is the integer part of
            sigma * 1000 in the dtype given: float32 for DanceGRPO's `int(sigma * 1000)`, float64 for UniPC's
            integer timesteps, which differ by one where sigma * 1000 is almost whole.

    Raises:
        ValueError: the grid is not decreasing inside [0, 1], or `time` is not a rule.
    """
    grid = sigma.detach().to("cpu", torch.float32)
    if grid.ndim != 1 or grid.numel() < 2:
        raise ValueError(f"a sigma grid has shape [T+1] with T >= 1, got {list(grid.shape)}")
    if not bool((grid[:-1] > grid[1:]).all()) or float(grid[0]) > 1 + 1e-6 or float(grid[-1]) < 0:
        raise ValueError(
            f"a flow sigma grid decreases strictly inside [0, 1], got {[round(v, 6) for v in grid.tolist()]}"
        )
    grid = grid.clamp(max=1)  # shifting 1 may round to just above it
    if time == "scaled":
        model_time = grid[:-1] * TRAIN_STEPS
    elif time == "truncated":
        model_time = (sigma.detach().cpu()[:-1] * TRAIN_STEPS).trunc().float()
    else:
        raise ValueError(f"time rule must be 'scaled' or 'truncated', got {time!r}")
    return Schedule(sigma=grid, alpha=1 - grid, time=model_time)


def flow_match_euler(steps: int, shift: float, time: TimeRule = "scaled") -> Schedule:
    """SD3's grid: `steps` points from 1 down to the shifted sigma of the last training step, shifted, then 0.

    sigma' = shift sigma / (1 + (shift - 1) sigma). The end point 1/1000 is shifted before the grid is laid
    and once more with it, so 10 steps at shift 3 end ..., .2780, .0089, 0 (diffusers
    FlowMatchEulerDiscreteScheduler; Flow-GRPO).
    """
    _check(steps, shift)
    end = _shifted(np.array([1 / TRAIN_STEPS], np.float32), shift)[0]
    grid = np.linspace(TRAIN_STEPS, float(end) * TRAIN_STEPS, steps) / TRAIN_STEPS
    return _ending_at_zero(_shifted(grid, shift), time)


def flow_match_dynamic(
    steps: int, mu: float, time: TimeRule = "scaled", terminal: float | None = None
) -> Schedule:
    """FLUX's grid: linspace(1, 1/steps, steps) under the shift e^mu / (e^mu + 1/sigma - 1), then 0.

    Args:
        steps: T >= 1.
        mu: resolution dependent, see `flux_mu`; mu = 0 leaves the grid linear.
        terminal: the last noise level before 0, towards which the grid is stretched (Qwen-Image: .02); with
            one step, at 1, there is nothing to stretch, where the stock scheduler divides 0 by 0.
    """
    _check(steps, 1.0)
    # The published grid is float32 before it is shifted; the shift itself then runs in float32 too.
    grid = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)
    return _ending_at_zero(_stretched(math.exp(mu) / (math.exp(mu) + (1 / grid - 1)), terminal), time)


def flow_match_line(
    steps: int, shift: float, time: TimeRule = "scaled", terminal: float | None = None
) -> Schedule:
    """As `flow_match_dynamic`, under the rational shift of SD3 (FLUX.1-schnell: 1, Z-Image-Turbo: 3).

    The same as mu = log(shift), but for float32 rounding, which a time of 1000 sigma makes visible.
    """
    _check(steps, shift)
    grid = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)
    return _ending_at_zero(_stretched(_shifted(grid, shift), terminal), time)


def flux_mu(
    seq_len: int, base_len: int = 256, max_len: int = 4096, base_shift: float = 0.5, max_shift: float = 1.15
) -> float:
    """FLUX's mu for `seq_len` latent tokens: a line through (base_len, base_shift), (max_len, max_shift).

    512 x 512 pixels are 1024 tokens (mu .63), 1024 x 1024 are 4096 (mu 1.15).
    """
    slope = (max_shift - base_shift) / (max_len - base_len)
    return base_shift + slope * (seq_len - base_len)


def flux2_mu(seq_len: int, steps: int) -> float:
    """FLUX.2's mu: a line over the number of steps, through its values at 10 and at 200 steps.

    Both are lines over `seq_len`, the number of latent tokens (16 x 16 pixels each); above 4300 tokens the
    number of steps has no say. The four numbers were fitted by the model's authors (diffusers Flux2Pipeline).
    """
    at_10 = 8.73809524e-05 * seq_len + 1.89833333
    at_200 = 0.00016927 * seq_len + 0.45666666
    if seq_len > 4300:
        return at_200
    slope = (at_200 - at_10) / 190
    return slope * steps + (at_200 - 200 * slope)


def shifted_linear(steps: int, shift: float, time: TimeRule = "scaled") -> Schedule:
    """The grid of DanceGRPO, MixGRPO, ViPO: sigma = shift t / (1 + (shift - 1) t), t = linspace(1, 0, T+1).

    Those releases feed the model `int(sigma * 1000)`: `time="truncated"` (.6429 becomes 642).
    """
    _check(steps, shift)
    t = torch.linspace(1, 0, steps + 1)
    return flow_schedule((shift * t) / (1 + (shift - 1) * t), time)


def unipc_flow(
    steps: int, shift: float, form: Literal["published", "current"] = "current", time: TimeRule = "truncated"
) -> Schedule:
    """Wan's grid (diffusers UniPCMultistepScheduler with flow sigmas), which starts just below 1.

    Args:
        steps: T >= 1.
        shift: flow_shift of the checkpoint (Wan2.1: 3 at 480p, 5 at 720p).
        form: `published`, the diffusers 0.33.1 that Flow-GRPO pins: sigma_0 = .999666 at shift 3. `current`,
            diffusers since January 2026: sigma_0 = .999999 whatever the shift.
        time: the scheduler's own timesteps are integers, hence `truncated`.
    """
    _check(steps, shift)
    if form == "published":
        noise = 1 - np.linspace(1, 1 / TRAIN_STEPS, steps + 1)
        grid = np.flip(_shifted(noise, shift))[:-1].copy()
    elif form == "current":
        grid = _shifted(np.linspace(1, 1 / TRAIN_STEPS, steps + 1)[:-1], shift)
        grid[0] -= 1e-6  # the multistep solver takes log(1 - sigma)
    else:
        raise ValueError(f"form must be 'published' or 'current', got {form!r}")
    return _ending_at_zero(grid, time)


def ddim(
    alphas_cumprod: Tensor,
    steps: int,
    steps_offset: int = 1,
    spacing: Literal["leading", "trailing"] = "leading",
) -> Schedule:
    """Variance-preserving grid of DDIM, as DDPO samples Stable Diffusion 1.x.

    `leading` timesteps are (T-1, ..., 1, 0) * (N // T) + steps_offset; `trailing` ones are N - 1, ...,
    N / T - 1, for models that were trained to pure noise (Lin et al. 2024). The grid point after the last one
    is timestep 0, never the scheduler's `final_alpha_cumprod`. With steps_offset = 0 the last two grid points
    coincide.

    Args:
        alphas_cumprod: [N], the checkpoint's cumulative product of alphas, inside [0, 1); 0 is pure noise.
        steps: T, 1 <= T <= N; a divisor of N for `trailing`, whose stock sampler else leaves its own grid.
        steps_offset: 1 for Stable Diffusion 1.4 and 1.5; `trailing` has none.

    Returns:
        sigma = sqrt(1 - abar) and alpha = sqrt(abar), in float64 and then rounded; time the integer
        timesteps.

    Raises:
        ValueError: steps or timesteps outside the training grid.
    """
    train = int(alphas_cumprod.shape[0])
    if not 1 <= steps <= train:
        raise ValueError(f"DDIM steps must be in 1..{train} (the checkpoint's training steps), got {steps}")
    stride = train // steps
    if spacing == "trailing":
        if train % steps:
            near = min((t for t in range(1, train + 1) if train % t == 0), key=lambda t: abs(t - steps))
            raise ValueError(
                f"trailing DDIM timesteps are {train} / steps apart, and {steps} steps do not divide "
                f"{train}; take {near}"
            )
        timesteps = torch.arange(train, 0, -stride) - 1
    elif spacing == "leading":
        timesteps = torch.arange(steps - 1, -1, -1) * stride + steps_offset
    else:
        raise ValueError(f"spacing must be 'leading' or 'trailing', got {spacing!r}")
    if steps_offset < 0 or int(timesteps[0]) >= train:
        raise ValueError(
            f"the first DDIM timestep would be {int(timesteps[0])} of 0..{train - 1} "
            f"({steps} steps, steps_offset {steps_offset}): use fewer steps or steps_offset=0"
        )
    grid = torch.cat([timesteps, (timesteps[-1:] - stride).clamp(min=0)])
    abar = alphas_cumprod.detach().to("cpu", torch.float64)[grid]
    if not bool(((abar >= 0) & (abar < 1)).all()):
        raise ValueError(
            f"alphas_cumprod must be inside [0, 1), got {float(abar.min())} to {float(abar.max())}"
        )
    return Schedule(sigma=(1 - abar).sqrt().float(), alpha=abar.sqrt().float(), time=timesteps.float())


def _shifted(sigma: Floats | NDArray[np.float32], shift: float) -> Floats | NDArray[np.float32]:
    """The rational time shift of SD3 (Esser et al. 2024, eq. 23)."""
    result: Floats | NDArray[np.float32] = shift * sigma / (1 + (shift - 1) * sigma)
    return result


def _stretched(sigma: NDArray[Any], terminal: float | None) -> NDArray[Any]:
    """The grid with its distances from 1 scaled so that it ends at `terminal`."""
    if not terminal or len(sigma) == 1:
        return sigma
    distance = 1 - sigma
    result: NDArray[Any] = 1 - distance / (distance[-1] / (1 - terminal))
    return result


def _ending_at_zero(sigma: Floats | NDArray[np.float32], time: TimeRule) -> Schedule:
    return flow_schedule(torch.from_numpy(np.append(sigma, 0.0)), time)


def _check(steps: int, shift: float) -> None:
    if steps < 1:
        raise ValueError(f"a schedule has at least 1 step, got {steps}")
    if not shift > 0:
        raise ValueError(f"the time shift must be positive (1 changes nothing), got {shift}")
