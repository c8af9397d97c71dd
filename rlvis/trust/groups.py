"""What trust reads of a step: the objectives in raw units, and each group's count, mean and variance.

Everything is float64 on the CPU, over valid samples only. Sums are those of rlvis/runtime/sums.py, so that
the order of samples in a group and of prompts in a batch cannot change a bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.records import Rewards
from rlvis.runtime.sums import ordered_sum
from rlvis.schema import Combine


@dataclass(frozen=True, slots=True)
class Groups:
    """values [P, K, Q] raw, 0 where not valid; valid [P, K]; count [P, 1]; mean and unbiased var [P, Q].

    mean is 0 where count is 0; var is 0 where count is below 2, and exactly 0 where all values are equal.
    unit [Q]: of deviations (`trust.scale`), infinite where no two rewards have differed yet; a floor that is
    not in it would depend on the reward's own unit.
    """

    values: Tensor
    valid: Tensor
    count: Tensor
    mean: Tensor
    var: Tensor
    unit: Tensor


def groups(rewards: Rewards, combine: Combine) -> Groups:
    """The groups of a step: Q = 1, the weighted sum of raw rewards, for `weighted_sum`; Q = R otherwise.

    Their unit is 1, as with trust.scale=raw.
    """
    values = torch.where(rewards.valid[..., None], rewards.term, 0.0)
    if combine is Combine.weighted_sum:
        weights = torch.tensor(list(rewards.weights), dtype=torch.float64)
        values = ordered_sum(values * weights, -1)[..., None]
    return statistics(values, rewards.valid)


def statistics(values: Tensor, valid: Tensor) -> Groups:
    """Count, mean and unbiased variance of the valid samples of groups [P, K, Q]; valid [P, K]."""
    mask = valid[..., None]
    values = torch.where(mask, values, 0.0)
    count = mask.sum(1).to(torch.float64)
    low = values.masked_fill(~mask, torch.inf).amin(1)
    high = values.masked_fill(~mask, -torch.inf).amax(1)
    equal = high <= low
    mean = torch.where(
        equal, high, ordered_sum(values, 1) / count.clamp(min=1)
    )  # 12 x 0.7 averages to 0.7 - 1e-16
    mean = torch.where(count > 0, mean, 0.0)
    deviation = torch.where(mask, values - mean[:, None], 0.0)
    var = ordered_sum(deviation.square(), 1) / (count - 1).clamp(min=1)
    return Groups(values, valid, count, mean, torch.where(equal, 0.0, var), torch.ones_like(mean[0]))


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance [Q] over the rows of [n, Q], n >= 1, bit-equal in any order."""
    low, high = rows.amin(0), rows.amax(0)
    mean = torch.where(low == high, low, ordered_sum(rows) / len(rows))
    return mean, ordered_sum((rows - mean).square()) / len(rows)


def summary(means: Tensor) -> Tensor | None:
    """[3, Q]: mean, variance and number of the group means [n, Q]; None when there are none."""
    if len(means) == 0:
        return None
    mean, var = moments(means)
    return torch.stack([mean, var, torch.full_like(mean, float(len(means)))])
