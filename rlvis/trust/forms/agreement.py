"""An ablation of ours: how well a group's mean agrees with the prior, on either side of it."""

from __future__ import annotations

from rlvis.trust import ras
from rlvis.trust.gaussian import Gaussian


class Agreement(Gaussian):
    """Agreement: the weight is largest where the group's mean is close to the prior's, and falls to either
    side of it.
    """

    rule = staticmethod(ras.agreement)


ENTRY = Agreement
