"""Flow-SDE and its kin: an Euler-Maruyama step of the reverse SDE with the flow's marginals.

Sources: Flow-GRPO 2505.05470, DanceGRPO 2505.07818, LongCat-Video 2510.22200.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.flow.kernel import Coefficients, FlowPath
from rlvis.schema import NoiseName
from rlvis.schema.key import Key

FIRST_STEP = 1 - 1e-3  # a first sigma above this takes 1 - sigma_1 in the noise level of `flow`
CLIPPED_STD = 0.45  # upper bound of the one-step std of `flow_clipped` (LongCat-Video)


def sde(
    path: FlowPath,
    eta: Annotated[float, Key("noise level", least=0)],
    noise: NoiseName = NoiseName.flow,
) -> Coefficients:
    """mean = x - v dt - (s^2 / 2 sigma) (x + (1 - sigma) v) dt with dt = sigma - sigma_next and v = eps - x0,
    std = s sqrt(dt).

    noise: s(sigma) is `flow` eta sqrt(sigma / (1 - sigma)), `dance` eta, `wan` the line from the last sigma
    to the second without an eta, `flow_clipped` the smaller of `flow` and .45 / sqrt(dt).
    """
    sigma, dt = path.sigma[:-1], path.dt
    s = _strength(path.sigma, dt, eta, noise)
    pull = s.square() / (2 * sigma) * dt
    c_x, c_v = 1 - pull, -(dt + pull * (1 - sigma))
    velocity_x, velocity_v = path.eps_x - path.x0_x, path.eps_v - path.x0_v
    return Coefficients(c_x + c_v * velocity_x, c_v * velocity_v, s * dt.sqrt())


def _strength(sigmas: Tensor, dt: Tensor, eta: float, noise: NoiseName) -> Tensor:
    """s(sigma) [T], without sqrt(dt)."""
    sigma = sigmas[:-1]
    if noise == NoiseName.dance:
        return torch.full_like(sigma, eta)
    if noise == NoiseName.wan:
        if eta != 1:
            raise ConfigError(
                mistake(
                    f"sampler.noise=wan takes its level from the grid, got sampler.eta={eta}", "sampler.eta=1"
                )
            )
        low, high = sigmas[-1], sigmas[1]
        return low + (high - low) * sigma
    distance = 1 - sigma
    if float(sigma[0]) > FIRST_STEP:
        # By step index: an equality test with 1 never fires on UniPC grids, where s would be 55 to 993 eta.
        distance[0] = 1 - sigmas[1]
    s = eta * (sigma / distance).sqrt()
    return torch.minimum(s, CLIPPED_STD / dt.sqrt()) if noise == NoiseName.flow_clipped else s


ENTRY = sde
