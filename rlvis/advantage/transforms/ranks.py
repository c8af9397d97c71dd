"""Centred ranks in place of values: what counts is the order of a group, not by how much one sample is ahead.

Rank-based fitness shaping of evolution strategies (Wierstra et al., Natural Evolution Strategies, JMLR 15,
2014; centred ranks as in Salimans et al., arXiv 1703.03864): invariant under any increasing transformation of
the reward, so a single outlier cannot push the others of its group together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlvis.records import Advantages, Rewards, Trust


def ranks(advantages: Advantages, rewards: Rewards, trust: Trust) -> Advantages:
    """Each group's ranks, equal values sharing their mean rank, with the mean and the spread that the group
    had: so the weight of a trust stays, and a group of equal values stays as it is.
    """
    term, valid = advantages.term, rewards.valid
    mean = term.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
    deviation, centred = (torch.where(valid, x, 0.0) for x in (term - mean, _centred(term, valid)))
    spread, now = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (deviation, centred))
    ranked = mean + centred * spread / torch.where(now > 0, now, 1.0)
    return advantages.replace(term=torch.where(valid, ranked, 0.0))


def _centred(term: Tensor, valid: Tensor) -> Tensor:
    """Mean rank of each value among the valid ones of its row, less the mean of all: (lower - higher) / 2."""
    sign = (term[..., :, None] - term[..., None, :]).sign() * valid[:, None, :]
    return sign.sum(-1) / 2


ENTRY = ranks
