"""The form of BPGO's release: the probability that a group's true mean beats the prior."""

from __future__ import annotations

from rlvis.trust import ras
from rlvis.trust.gaussian import Gaussian


class Posterior(Gaussian):
    """Posterior: the weight follows the probability that the group's true mean beats the prior, which the
    group's spread and the prior's variance make more or less certain.
    """

    rule = staticmethod(ras.posterior)
    has_posterior = True


ENTRY = Posterior
