"""The metrics that follow from records, under the keys of `metric_table`.

Invalid samples are masked and counted; a statistic of no samples is left out rather than reported as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlvis.records import Advantages, Rewards, Trust
from rlvis.schema import Combine


def reward_metrics(rewards: Rewards) -> dict[str, float]:
    """reward/* and group/* of a step from its gathered rewards [P, K, R]; standard deviations are of the
    population.

    group/* needs groups: with one sample a prompt it is left out.
    """
    valid = rewards.valid
    metrics = {
        "reward/valid_fraction": float(valid.double().mean()),
        "reward/invalid_count": float((~valid).sum()),
    }
    combined = weighted_sum(rewards)
    if bool(valid.any()):
        metrics |= _moments("reward", combined[valid])
        for r, name in enumerate(rewards.names):
            metrics |= _moments(f"reward/{name}", rewards.term[..., r][valid])
    for name, seconds in zip(rewards.names, rewards.latency, strict=True):
        metrics[f"reward/{name}/latency"] = float(seconds)
    if valid.shape[1] > 1:
        groups = [row[mask] for row, mask in zip(combined, valid, strict=True)]
        spread = torch.tensor(
            [float(g.std(correction=0)) for g in groups if g.numel() > 1], dtype=torch.float64
        )
        flat = [g.numel() < 2 or bool(g.max() == g.min()) for g in groups]
        metrics["group/zero_variance_fraction"] = sum(flat) / len(flat)
        if spread.numel():
            metrics["group/std_mean"] = float(spread.mean())
    return metrics


def advantage_metrics(advantages: Advantages, rewards: Rewards, *, adv_clip: float) -> dict[str, float]:
    """advantage/* of a step from its scalar advantages [A, P, K] and the rewards they were made from.

    adv_clip: the bound that every term was clamped to (`advantage.adv_clip`). Maps are not looked at.
    """
    keep = advantages.keep
    metrics = {"advantage/kept_fraction": float(keep.double().mean())}
    if not bool(keep.any()):
        return metrics
    total = torch.einsum("a,apk->pk", advantages.coef, advantages.term)
    size = total[keep].abs()
    metrics["advantage/abs_mean"] = float(size.mean())
    metrics["advantage/max"] = float(size.max())
    metrics["advantage/clamped_fraction"] = float(
        (advantages.term[:, keep].abs() >= adv_clip).double().mean()
    )
    known = keep & rewards.valid
    centred = _centred(weighted_sum(rewards), rewards.valid)
    compared = known & (total != 0) & (centred != 0)
    if bool(compared.any()):
        agrees = total[compared].sign() == centred[compared].sign()
        metrics["advantage/reward_agreement"] = float(agrees.double().mean())
    return metrics


def trust_metrics(trust: Trust, rewards: Rewards, combine: Combine) -> dict[str, float]:
    """trust/* of a step: its weights [P, Q], what they were compared with, and what the contrast does.

    Groups without a valid sample are left out. combine: which quantities the Q objectives are
    (`advantage.combine`).
    """
    valid = rewards.valid
    known = valid.any(1)
    if not bool(known.any()):
        return {}
    w = trust.weight[known]
    metrics = {
        "trust/weight_mean": float(w.mean()),
        "trust/weight_min": float(w.min()),
        "trust/weight_max": float(w.max()),
        "trust/weight_std": float(w.std(correction=0)),
        "trust/effective_groups": float((w.sum(0).square() / w.square().sum(0)).mean()),
    }
    scored = torch.where(valid[..., None], rewards.term, 0.0)
    values = weighted_sum(rewards)[..., None] if combine is Combine.weighted_sum else scored
    if trust.anchor_mean is not None and trust.anchor_var is not None:
        count = valid.sum(1)[known, None]
        mean = values.sum(1)[known] / count
        deviation = torch.where(valid[known][..., None], values[known] - mean[:, None], 0.0)
        var = deviation.square().sum(1) / (count - 1).clamp(min=1)
        gap = (mean - trust.anchor_mean[known]).abs()
        prior = trust.anchor_var[known]
        error = torch.where(count > 1, var / count, prior)  # one sample has no variance of its own
        share = torch.where(prior > 0, prior / (prior + error), 0.0)
        metrics["trust/prior_mean"] = float(trust.anchor_mean[known].mean())
        metrics["trust/prior_gap"] = float(gap.mean())
        metrics["trust/posterior_gap"] = float((share * gap).mean())
    if trust.contrast is not None:
        higher = values[:, :, None] > values[:, None]
        pairs = higher & valid[:, :, None, None] & valid[:, None, :, None]
        if trust.contrast_share is not None:  # where it is 0 the contrast does nothing
            pairs &= (trust.contrast_share > 0)[:, None, None]
        turned = trust.contrast[:, :, None] < trust.contrast[:, None]
        if bool(pairs.any()):
            metrics["trust/inverted_fraction"] = float(turned[pairs].double().mean())
    return metrics


def map_metrics(
    map: Tensor,
    free: Tensor,
    failed: int,
    reduce: Callable[[Tensor, str], Tensor] = lambda values, how: values,
) -> dict[str, float]:
    """map/* of a step from this rank's maps [N, F, H, W] >= 0, over the free positions [F, H, W].

    failed: rows whose map was replaced by ones. reduce: (values, "sum" or "max") -> the same over all ranks.
    """
    values = map[:, free > 0].double()
    rows, positions = values.shape
    mass = values.sum(1, keepdim=True)
    share = torch.where(mass > 0, values / torch.where(mass > 0, mass, 1.0), 1.0 / positions)
    entropy = torch.special.entr(share).sum(1) / math.log(positions) if positions > 1 else torch.ones(rows)
    local = [float(rows), float(entropy.sum()), float(values.mean(1).sum()), float(failed)]
    count, ordered, mean, lost = reduce(torch.tensor(local, dtype=torch.float64), "sum").tolist()
    top = float(reduce(torch.tensor([float(values.max()) if rows else 0.0]), "max")[0])
    if not count:
        return {}
    return {"map/entropy": ordered / count, "map/mean": mean / count, "map/max": top, "map/failed": lost}


def weighted_sum(rewards: Rewards) -> Tensor:
    """Weighted sum of the terms [P, K] float64; 0 (and never to be read) where a sample is invalid."""
    weights = torch.tensor(rewards.weights, dtype=torch.float64)
    known = torch.where(rewards.valid[..., None], rewards.term, torch.zeros_like(rewards.term))
    return known @ weights


def _centred(combined: Tensor, valid: Tensor) -> Tensor:
    """Reward minus the mean of the group's valid samples [P, K]; exactly 0 in a group of equal rewards."""
    count = valid.sum(1, keepdim=True).clamp(min=1)
    centred = combined - (combined * valid).sum(1, keepdim=True) / count
    high = torch.where(valid, combined, -torch.inf).amax(1, keepdim=True)
    low = torch.where(valid, combined, torch.inf).amin(1, keepdim=True)
    return torch.where(
        high == low, torch.zeros_like(centred), centred
    )  # 12 x 0.7 has a mean 1e-16 beside 0.7


def _moments(prefix: str, values: Tensor) -> dict[str, float]:
    return {f"{prefix}/mean": float(values.mean()), f"{prefix}/std": float(values.std(correction=0))}
