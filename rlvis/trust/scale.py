"""The unit in which deviations from the prior are measured: without one, slopes mean nothing.

`running_std` is the root of an exponential mean of each step's reward variance (all valid samples of the
step), per objective. As with the priors, a step uses the memory before it; the first step with any spread
uses its own. Until there is any spread the unit is infinite: no deviation is worth anything, so w = 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.schema import TrustConfig, TrustScale
from rlvis.trust.groups import Groups, moments

KEY = "scale/var"  # running variance [Q] in the state's values


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
    now = moments(rows)[1]
    used = torch.where(past > 0, past, now)
    return _root(used), {KEY: used + (1 - trust.scale_decay) * (now - used)}


def _root(var: Tensor) -> Tensor:
    return torch.where(var > 0, var.sqrt(), torch.inf)
