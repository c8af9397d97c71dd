"""Weights of groups from their mean reward and a prior: BPGO's reliability-adaptive scaling, two relatives.

All read raw rewards. The release computes the weight from rewards that its contrast has already transformed
(and, before, z-scored on each device); then the weight says nothing about the reward, so we depart from it.
`sigmoid` is Eq. 2 of arXiv 2511.18919, `posterior` what its release (TeleBoost) computes; `agreement` is an
ablation of ours that trusts a group less on either side of the prior.
"""

from __future__ import annotations

import torch
from torch import Tensor

# In units of the scale, squared:
VAR_FLOOR = 1e-8  # added to a group's variance, as in the release
SINGLE_VAR = 1.0  # variance of a group with one sample, as in the release
W_LOW, W_HIGH = 0.01, 10.0  # bounds of the weight after alpha, as in the release


def sigmoid(delta: Tensor, alpha: float, k: float) -> Tensor:
    """w = 1 + alpha (2 sigmoid(k delta) - 1), in 1 - alpha .. 1 + alpha (Eq. 2).

    delta: (group mean - prior mean) / scale, any shape, float64. Written as tanh(k delta / 2), which is
    exactly 0 for k = 0 or delta = 0.
    """
    return 1 + alpha * torch.tanh(k * delta / 2)


def posterior_moments(
    mean: Tensor, var: Tensor, count: Tensor, prior_mean: Tensor, prior_var: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the posterior of a group's true mean under N(prior_mean, prior_var).

    mean, unbiased var, prior_mean, prior_var: [P, Q]; count [P, 1] >= 1. V = 1 / (n / s^2 + 1 / v0) and
    m = V (n mean / s^2 + prior_mean / v0), written so that v0 = 0 gives V = 0 and m = prior_mean.
    """
    precision = _precision(var, count)
    post_var = prior_var / (prior_var * precision + 1)
    return prior_mean + post_var * precision * (mean - prior_mean), post_var


def posterior(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    prior_mean: Tensor,
    prior_var: Tensor,
    *,
    alpha: float,
    w_min: float,
    w_max: float,
) -> Tensor:
    """Weight from Phi((m - prior_mean) / sqrt(V)), the posterior probability of beating the prior.

    w = 1 + alpha (w_min + (w_max - w_min) Phi - 1) within 0.01 .. 10. Shapes as in `posterior_moments`. A
    group with one sample has variance 1.
    """
    _, post_var = posterior_moments(mean, var, count, prior_mean, prior_var)
    ratio = post_var.sqrt() * _precision(var, count) * (mean - prior_mean)  # (m - P) / sqrt(V), also at V = 0
    return _between(torch.special.ndtr(ratio), alpha, w_min, w_max)


def agreement(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    prior_mean: Tensor,
    prior_var: Tensor,
    *,
    alpha: float,
    w_min: float,
    w_max: float,
) -> Tensor:
    """Weight from p = 2 (1 - Phi(|mean - prior_mean| / sqrt(s^2 / n + v0))), the two-sided p-value.

    Shapes, bounds and the variance of a single sample as in `posterior`.
    """
    error = (1 / _precision(var, count) + prior_var).sqrt()
    p = 2 * torch.special.ndtr(-(mean - prior_mean).abs() / error)
    return _between(p, alpha, w_min, w_max)


def _precision(var: Tensor, count: Tensor) -> Tensor:
    """n / s^2 of a group, s^2 as in the release."""
    return count / torch.where(count > 1, var + VAR_FLOOR, SINGLE_VAR)


def _between(share: Tensor, alpha: float, w_min: float, w_max: float) -> Tensor:
    return (1 + alpha * (w_min + (w_max - w_min) * share - 1)).clamp(W_LOW, W_HIGH)
