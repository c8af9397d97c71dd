"""The deterministic step, Euler's of a flow and DDIM's of a diffusion: for sheets and evaluation, and between
noisy steps. It has no density, so it cannot train.
"""

from __future__ import annotations

import torch

from rlvis.flow.kernel import Coefficients, Path


def ode(path: Path) -> Coefficients:
    """x' = alpha_next x0 + sigma_next eps."""
    x, v = path.mix(path.alpha[1:], path.sigma[1:])
    return Coefficients(x, v, torch.zeros_like(x))


ENTRY = ode
