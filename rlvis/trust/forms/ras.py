"""BPGO's reliability-adaptive scaling, Eq. 2 of arXiv 2511.18919."""

from __future__ import annotations

from torch import Tensor

from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor
from rlvis.trust.ras import sigmoid


def scaling(groups: Groups, anchor: Anchor, unit: Tensor, *, alpha: float, k: float) -> Tensor:
    """RAS: the weight rises with (group mean - prior mean), from 1 - alpha to 1 + alpha; it is 1 where they
    are equal, or where the prior rests on nothing yet.
    """
    return sigmoid((groups.mean - anchor.mean) / unit, alpha, k)


ENTRY = scaling
