"""Several rewards as objectives and terms, and which samples of a group are trained.

`weighted_sum` has one objective, the sum; `gdpo` and `separate_terms` have one per reward and differ in what
follows the z-scores: one batch-normalised sum (GDPO), or a clipped loss for each reward (DanceGRPO's video
recipe).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvis.advantage.normalise import RULES, batch_zscore
from rlvis.records import Rewards
from rlvis.runtime.sums import ordered_sum
from rlvis.schema import AdvantagePreset, Combine


def objectives(rewards: Rewards, combine: Combine) -> tuple[Tensor, tuple[str, ...]]:
    """The Q quantities that get a z-score of their own: [P, K, Q] float64 (0 where not valid) and their
    names.

    Q is 1 for `weighted_sum` and R otherwise; weights enter here for `weighted_sum` only.
    """
    raw = torch.where(rewards.valid[..., None], rewards.term, 0.0)
    if combine is Combine.weighted_sum:
        return ordered_sum(raw * weight_tensor(rewards.weights), -1)[..., None], ("grpo",)
    return raw, rewards.names


def gdpo(z: Tensor, weights: Sequence[float], valid: Tensor) -> Tensor:
    """Batch-normalised sum over rewards of w_r z_r: [Q, P, K] -> [P, K] float64.

    Population standard deviation over the valid samples with a floor of 1e-6, whatever preset made the
    z-scores. A group in which every sum is 0 stays exactly 0 (subtracting the batch mean would leave its
    rounding error).
    """
    total = ordered_sum(z * weight_tensor(weights)[:, None, None])
    flat = (total == 0).all(-1, keepdim=True)
    return torch.where(flat, 0.0, batch_zscore(total, valid, RULES[AdvantagePreset.gdpo]))


def best_and_worst(score: Tensor, valid: Tensor, n: int) -> Tensor:
    """Best-of-N: which samples to train, [P, K] bool: the n/2 highest and the n/2 lowest valid scores of each
    group.

    score: [P, K] float64. Ties go by sample number. A group with at most n valid samples keeps them all. The
    release (DanceGRPO, HunyuanVideo) selects over a rank's whole batch and, for odd n, takes one more of the
    best than of the worst; here each group is selected alone, so placement cannot matter, and an odd n is
    refused.
    Raises ValueError for an n that is odd or not in 2..K.
    """
    size = score.shape[1]
    if n % 2 or not 2 <= n <= size:
        raise ValueError(
            f"advantage.best_of_n={n}: wanted an even number in 2..{size}, because the best and the worst "
            f"n/2 of each group of data.samples_per_prompt={size} are trained; "
            f"type advantage.best_of_n={max(2, min(n, size) // 2 * 2)} or advantage.best_of_n=null"
        )
    order = score.masked_fill(~valid, float("inf")).argsort(dim=-1, stable=True)
    rank = order.argsort(dim=-1)
    count = valid.sum(-1, keepdim=True)
    return valid & ((rank < n // 2) | (rank >= count - n // 2))


def weight_tensor(weights: Sequence[float]) -> Tensor:
    """The weights as a float64 tensor [R]."""
    return torch.tensor(list(weights), dtype=torch.float64)
