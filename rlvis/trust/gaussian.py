"""What forms of trust share that hold a group's mean against a Gaussian prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlvis.trust.form import Weighed
from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor


@dataclass(frozen=True)
class Gaussian:
    """prior_var: the prior's variance in units of trust.scale squared; None: its own. alpha, w_min, w_max:
    see rlvis.trust.ras. rule: from moments in units of the scale to weights.
    """

    alpha: float
    prior_var: float | None
    w_min: float
    w_max: float
    rule: ClassVar[Callable[..., Tensor]]
    has_posterior: ClassVar[bool] = False

    @property
    def needs_variance(self) -> bool:
        """Whether it reads the prior's own variance."""
        return self.prior_var is None

    def __call__(self, groups: Groups, anchor: Anchor, unit: Tensor) -> Weighed:
        """Weights, and the variance that was taken."""
        var, used = anchor.var / unit.square(), anchor.var
        if self.prior_var is not None:
            var = torch.full_like(anchor.var, self.prior_var)
            used = torch.where(unit.isfinite(), var * unit.square(), anchor.var)
        weight = type(self).rule(
            groups.mean / unit,
            groups.var / unit.square(),
            groups.count,
            anchor.mean / unit,
            var,
            alpha=self.alpha,
            w_min=self.w_min,
            w_max=self.w_max,
        )
        return Weighed(weight, used)
