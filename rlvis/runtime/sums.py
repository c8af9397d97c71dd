"""Sums whose bits depend on what is added alone: not on its order, nor on what else is in the tensor.

`Tensor.sum` adds in an order that follows position and layout, and the last bit of a mean decides more than
it should: whether the middle one of (.1, .2, .3) beats their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ordered_sum(values: Tensor, dim: int = 0) -> Tensor:
    """The sum over a dimension, which falls away; 0 where it is empty. values: no NaN.

    Sorted, then added pairwise by elementwise additions, which round alike at every position.
    """
    rows = values.sort(dim).values.movedim(dim, 0)
    while len(rows) > 1:
        half = len(rows) // 2
        rows = torch.cat([rows[:half] + rows[half : 2 * half], rows[2 * half :]])
    return rows[0] if len(rows) else values.new_zeros(rows.shape[1:])
