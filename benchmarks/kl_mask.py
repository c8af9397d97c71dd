"""A trust region by the KL of each row's step in place of the clip: the mask of Flow-DPPO, a study arm.

A row whose Gaussian step has moved further than a limit from the rollout's, and whose ratio has left 1 in the
direction that its advantage wants, gives no gradient. KL per dimension: mean (mean - mean_old)^2 / (2 std^2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlvis.flow.logprob import reduce_positions
from rlvis.update import loss as losses
from rlvis.update.loss_term import LossTerm
from rlvis.update.replay import Batch, Replayed

WORD = "benchmark.kl_mask="


def of(limit: float) -> type[LossTerm]:
    """The loss term with that mask. The advantage has one term."""

    class Masked(LossTerm):
        def __call__(
            self, batch: Batch, new: Replayed, rows: Tensor, s: int
        ) -> tuple[Tensor, dict[str, Tensor]]:
            per_row, metrics = super().__call__(batch, new, rows, s)
            with torch.no_grad():
                kl = losses.kl(new.mean, self.old_mean(batch, new), new.std.flatten(), self.free)
                moved = reduce_positions(new.logprob - batch.old_logprob[:, s], self.free)
                out = (kl >= limit) & (moved * self.advantage[0, rows] > 0)
            metrics["clip_high"] = (out & (moved > 0)).float()
            metrics["clip_low"] = (out & (moved < 0)).float()
            return torch.where(out, per_row.detach(), per_row), metrics

    return Masked
