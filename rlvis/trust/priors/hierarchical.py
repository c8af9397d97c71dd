"""Each prompt's posterior mean from its own past groups, shrunk towards the mean of all recent groups.

Not a published setting: an empirical-Bayes normal model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.records import PromptBatch
from rlvis.runtime.sums import ordered_sum
from rlvis.trust.groups import Groups, moments, summary
from rlvis.trust.prior import Anchor, Memory, Prior, prompt_key, stacked
from rlvis.trust.ras import VAR_FLOOR


class Hierarchical(Prior):
    """Each prompt's posterior under P_i ~ N(mu, t2), group mean ~ N(P_i, s^2 / n), from past groups alone.

    mu and t2 are moments over the `window` most recent groups, t2 = max(0, var of group means - mean s^2 /
    n). Groups with fewer than two valid samples have no s^2 and are left out. s^2 has a floor in the unit of
    deviations; until that is finite no reward has differed from another, and groups have no precision, error
    0. Before the first step the mean is that step's own with count 0.
    """

    def __init__(self, window: int) -> None:
        self.window = window

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """The posteriors before this step; the window and the prompts' sums after it."""
        usable = groups.count[:, 0] >= 2
        floor = torch.where(groups.unit.isfinite(), VAR_FLOOR * groups.unit.square(), 0.0)
        error = (groups.var + floor) / groups.count.clamp(min=1)  # s^2 / n [P, Q]
        fresh = _ordered(torch.stack([groups.mean, error], 1)[usable])  # [n, 2, Q]
        past = memory.get("window")
        after = {**memory}
        if len(fresh):
            after["window"] = (fresh if past is None else torch.cat([past, fresh]))[-self.window :]
        indices = prompts.index.tolist()
        for index in sorted(set(indices)):
            members = torch.tensor([i == index for i in indices]) & usable
            if bool(members.any()):
                key = prompt_key(index)
                after[key] = _accumulated(memory.get(key), groups.mean[members], error[members])
        if past is None:
            start = summary(groups.mean[groups.count[:, 0] > 0])
            if start is None:
                start = torch.zeros(3, groups.mean.shape[1], dtype=torch.float64)
            rows = [torch.stack([start[0], start[1], torch.zeros_like(start[2])])] * len(indices)
            return stacked(rows), after
        return stacked([_shrunk(past, memory.get(prompt_key(index))) for index in indices]), after


def _ordered(rows: Tensor) -> Tensor:
    """Rows [n, ...] in lexicographic order, so that the window does not depend on the order of prompts."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].flatten().tolist())
    return rows[order]


def _accumulated(past: Tensor | None, means: Tensor, errors: Tensor) -> Tensor:
    """[3, Q]: precision-weighted mean, precision and number of a prompt's groups, [n, Q] more of them.

    Without any precision the mean is that of the newest groups; nothing reads it.
    """
    weight = torch.where(errors > 0, 1 / errors, 0.0)
    precision = ordered_sum(weight)
    weighed = ordered_sum(weight * means) / precision
    mean = torch.where(precision > 0, weighed, ordered_sum(means) / len(means))
    count = torch.full_like(mean, float(len(means)))
    if past is None:
        return torch.stack([mean, precision, count])
    total = past[1] + precision
    part = torch.where(total > 0, precision / total, 1.0)
    return torch.stack([past[0] + part * (mean - past[0]), total, past[2] + count])


def _shrunk(window: Tensor, past: Tensor | None) -> Tensor:
    """[3, Q]: a prompt's mean, variance and count from the window [n, 2, Q] and its own past groups."""
    mu, spread = moments(window[:, 0])
    n = len(window)
    noise = moments(window[:, 1])[0]
    t2 = (spread * n / (n - 1) - noise).clamp(min=0) if n > 1 else torch.zeros_like(mu)
    count = torch.full_like(mu, float(n))
    if past is None:
        return torch.stack([mu, t2, count])
    mean, precision, groups = past
    # Written so that t2 = 0 (prompts do not differ beyond noise) gives mu.
    var = t2 / (t2 * precision + 1)
    return torch.stack([mu + var * precision * (mean - mu), var, torch.maximum(count, groups)])


ENTRY = Hierarchical
