"""BPGO's contrastive reward transformation (CRT): rewards of a group are spread around the prior.

`exp` (Eq. 4 of arXiv 2511.18919) is an auxiliary term with a z-score of its own; a positive factor common to
a group leaves that z-score alone, so the exponential is taken against the group's largest deviation and
cannot overflow. It keeps the order of two samples only above prior - 1: below, a worse sample may get the
larger value; `monotone` ends that. `gated` (the release, TeleBoost) replaces the reward, and inverts the
order of negative ones: they are refused. It inverts the order of positive ones below about half the prior as
well, since (R - P) R falls there: of rewards .1 to .9 under a prior of 1 the worst gets the largest value.
`trust/inverted_fraction` counts such pairs of either form, and the doctor warns of them.

A z-score knows no size: rewards that differ by rounding would train like any others. So each group's is
multiplied by its `share`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlvis.records import PromptBatch

EXPONENT_LIMIT = 30.0  # the release clamps exponents to +-30
TIE = 1e-12  # a reward that is no further above the prior is not above it: means differ in their last bits
LEAST_SPREAD = 1e-6  # of the deviations in a group


def exp(deviation: Tensor, valid: Tensor, *, lam: float, monotone: bool) -> Tensor:
    """Eq. 4 up to a positive factor per group: (lam d + 1{R > P}) exp(d - max_j d), [P, K, Q] float64.

    deviation: d = (R - P) / scale; R > P is d > 1e-12. valid: [P, K]. monotone: d below -1 counts as -1.
    Returns 0 where not valid.
    """
    mask = valid[..., None]
    d = deviation.clamp(min=-1) if monotone else deviation
    highest = d.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    value = (lam * d + (deviation > TIE).to(d)) * torch.exp(
        d - torch.where(mask.any(1, keepdim=True), highest, 0.0)
    )
    return torch.where(mask, value, 0.0)


def gated(reward: Tensor, prior: Tensor, *, gain: float, tau: float) -> Tensor:
    """(gain (R - P) + 1{R > P}) R sigmoid(R / tau), the exponent clamped to +-30 as in the release.

    reward and prior broadcast against each other, both in units of the scale; R > P is R - P > 1e-12. Falls
    with R from 0 to about P / 2.
    """
    gate = 1 / (1 + torch.exp((-reward / tau).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)))
    deviation = reward - prior
    return (gain * deviation + (deviation > TIE).to(reward)) * gate * reward


def share(deviation: Tensor, valid: Tensor) -> Tensor:
    """How much of a group's z-scores counts, [P, Q] float64: max(0, 1 - 1e-6 / spread), where the spread is
    from the least to the largest valid deviation [P, K, Q]. 0 without two of them.
    """
    mask = valid[..., None]
    high = deviation.masked_fill(~mask, -torch.inf).amax(1)
    spread = (high - deviation.masked_fill(~mask, torch.inf).amin(1)).clamp(min=LEAST_SPREAD)
    return 1 - LEAST_SPREAD / spread


def refuse_nonpositive(values: Tensor, valid: Tensor, prompts: PromptBatch) -> None:
    """Raise ValueError where `gated` cannot take a valid reward. values [P, K, Q], valid [P, K]."""
    bad = (values <= 0) & valid[..., None]
    if bool(bad.any()):
        p, k, q = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"trust.crt.form=gated multiplies by the reward, which turns the order of negative ones around, "
            f"and {int(bad.sum())} rewards are not above 0: the first is {float(values[p, k, q]):g}, sample "
            f"{k} of prompt {int(prompts.index[p])} ({prompts.texts[p]!r}), objective {q}; "
            "type trust.crt.form=exp, or use a reward that is always above 0"
        )
