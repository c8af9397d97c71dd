"""One score from several answers about the same sample, with what they say of the judge's noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlvis.reward.contract import Scores


def summary(marks: Tensor) -> Scores:
    """Scores of B samples from marks [R, B], NaN where a question failed: means, and with R > 1 the variance
    of the mean, s^2 / r of the r marks there are, with r - 1 degrees of freedom.

    A sample is valid where at least half of its marks are there.
    """
    repeats = len(marks)
    good = marks.isfinite()
    count = good.sum(0).double()
    valid = 2 * count >= repeats
    mean = torch.where(good, marks, 0.0).sum(0) / count
    value = torch.where(valid, mean, math.nan)
    if repeats == 1:
        return Scores(value, valid)
    square = torch.where(good, (marks - mean).square(), 0.0).sum(0) / (count - 1)
    several = valid & (count > 1)
    return Scores(
        value,
        valid,
        torch.where(several, square / count, math.nan),
        torch.where(several, count - 1, math.nan),
    )
