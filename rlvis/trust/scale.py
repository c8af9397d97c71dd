"""The unit in which deviations from the prior are measured: without one, slopes mean nothing.

`running_std` is the root of an exponential mean of each step's reward variance (all valid samples of the
step), per objective. As with the priors, a step uses the memory before it; the first step with any spread
uses its own. Until there is any spread beyond rounding the unit is infinite: no deviation is worth anything,
so w = 1 whatever the form, and nothing is contrasted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.schema import TrustConfig, TrustScale
from rlvis.trust.groups import Groups, moments

KEY = "scale/var"  # running variance [Q] in the state's values
ROUNDING = 2.0**-46  # of a reward, 64 times that of one operation: .1 + .2 beside .3 is no spread


def unit(
    groups: Groups, trust: TrustConfig, memory: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The unit [Q] for this step, and what is remembered of it ({} for `raw`, which is 1)."""
    if trust.scale is TrustScale.raw:
        return torch.ones_like(groups.mean[0]), {}
    past = memory.get(KEY, torch.zeros_like(groups.mean[0]))
    rows = groups.values[groups.valid]
    if len(rows) == 0:
        return _root(past), {KEY: past}
    low, high = rows.amin(0), rows.amax(0)
    noise = ROUNDING * torch.maximum(low.abs(), high.abs())
    now = torch.where(high - low <= noise, 0.0, moments(rows)[1])
    used = torch.where(past > 0, past, now)
    return _root(used), {KEY: used + (1 - trust.scale_decay) * (now - used)}


def _root(var: Tensor) -> Tensor:
    return torch.where(var > 0, var.sqrt(), torch.inf)
