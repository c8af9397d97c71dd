"""The clipped policy loss at three ratio scopes, the KL to a reference, GRPO-Guard's ratio: maths alone.

Log-probs are means over channels at each position, so "the" ratio of a sample is a choice: `sample`
exp(mean_p dlogp), the scalar of Flow-GRPO and DanceGRPO; `position` exp(dlogp_p); `pooled` exp(mean_p M_p
dlogp_p). Every term is clipped for itself (the clipped loss is positively homogeneous but not additive), so
M >= 0 stands outside the max and a map of ones is bit for bit no map. Everything is float32 in, float32 out;
rows are never averaged here, the caller divides by the planned number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.flow.logprob import reduce_positions
from rlvis.schema import DEFAULT_CLIP_RANGE, GuardBias, RatioScope, Reduction

TENTH = 1.2815515655446004  # standard deviations above which a tenth of a normal variable lies


def log_ratio(dlogp: Tensor, free: Tensor, scope: RatioScope, map: Tensor | None = None) -> Tensor:
    """Log of the importance ratio at a scope.

    dlogp: [B, F, H, W], new minus old log-prob at each position. free: [F, H, W]. map: [B, F, H, W] >= 0,
    used by `pooled`.
    Returns [B, 1, 1, 1] for `sample` and `pooled`, [B, F, H, W] (0 where not free) for `position`.
    """
    if scope is RatioScope.position:
        return torch.where(free > 0, dlogp, 0.0)
    if scope is RatioScope.pooled and map is not None:
        dlogp = map * dlogp
    return reduce_positions(dlogp, free)[:, None, None, None]


def ratio(dlogp: Tensor, free: Tensor, scope: RatioScope, map: Tensor | None = None) -> Tensor:
    """Importance ratio: exp of `log_ratio`, the same shapes."""
    return log_ratio(dlogp, free, scope, map).exp()


def policy_loss(
    dlogp: Tensor,
    free: Tensor,
    advantage: Tensor,
    coef: Tensor,
    clip: tuple[float, float],
    scope: RatioScope,
    map: Tensor | None = None,
    guarded: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped loss of each row, and what to watch.

    dlogp: [B, F, H, W]. free: [F, H, W]. advantage: [A, B], or [A, B, F, H, W] at scope `position`, of any
    float type, cast once. coef: [A], >= 0. clip: how far the ratio may fall and rise, (0.1, 0.2) for
    0.9..1.2. map: [B, F, H, W] >= 0, without gradient. guarded: [B], a ratio made by `guard_ratio` that
    replaces the one of dlogp (scope `sample`).
    Returns the loss [B] = sum_a coef_a mean_p M_p max(-A r, -A clip(r)), where at `sample` the one ratio
    decides what is clipped and how much a row counts while its gradient follows the map (see `_led_by`), and
    at `pooled` M acts in the ratio only; and detached metrics, each [B]: ratio_mean, ratio_max_dev
    (of |r - 1|), clip_high and clip_low (fractions beyond the range), approx_kl (mean of dlogp^2 / 2 at the
    scope; unguarded).
    Raises ValueError for an advantage per position, or `guarded`, at another scope.
    """
    log_r = log_ratio(dlogp, free, scope, map)
    factor = reduce_positions(map, free) if map is not None and scope is RatioScope.sample else None
    if map is not None and factor is not None:
        log_r = _led_by(map, factor, dlogp, free, log_r)
    if guarded is None:
        r = log_r.exp()
    else:
        _only_sample(scope)
        r = guarded[:, None, None, None]
    low, high = clip
    clipped = r.clamp(1.0 - low, 1.0 + high)
    per_position = scope is RatioScope.position
    if advantage.ndim == 5 and not per_position:
        raise ValueError(
            f"an advantage at each position needs a ratio at each position, got advantage.ratio_scope="
            f"{scope}; type advantage.ratio_scope=position, or make advantages with "
            "advantage.map.apply_to=advantage"
        )
    a = advantage.to(r) if advantage.ndim == 5 else advantage.to(r)[:, :, None, None, None]
    c = coef.to(r)
    loss = r.new_zeros(r.shape[0])
    for term in range(a.shape[0]):
        surrogate = torch.maximum(-a[term] * r, -a[term] * clipped)
        if per_position:
            row = reduce_positions(surrogate if map is None else map * surrogate, free)
        else:
            row = surrogate.flatten()
        loss = loss + c[term] * (row if factor is None else factor * row)
    return loss, _metrics(r.detach(), log_r.detach(), free, clip, per_position)


def _led_by(map: Tensor, factor: Tensor, dlogp: Tensor, free: Tensor, log_r: Tensor) -> Tensor:
    """log_r [B, 1, 1, 1] of the whole sample in value; its gradient is that of sum_p M_p dlogp_p / sum_p M_p.

    A clip that binds at single positions keeps those whose drawn noise opposes the update, which pulls the
    policy back sqrt(FHW) times as hard as one that binds as often on samples (benchmarks/clip_pull.py). So
    the sample's ratio decides, and the map says where the gradient goes. factor: [B], mean_p M_p.
    """
    share = torch.where(factor > 0, 1 / factor.clamp(min=torch.finfo(factor.dtype).tiny), 0.0)
    local = (share * reduce_positions(map * dlogp, free))[:, None, None, None]
    return log_r.detach() + (local - local.detach())


def _metrics(
    r: Tensor, log_r: Tensor, free: Tensor, clip: tuple[float, float], per_position: bool
) -> dict[str, Tensor]:
    def mean(x: Tensor) -> Tensor:
        return reduce_positions(x, free) if per_position else x.flatten()

    step = r - 1.0  # exact near 1, unlike 1 + clip
    return {
        "ratio_mean": mean(r),
        "ratio_max_dev": step.abs().amax((1, 2, 3)),  # positions that are not free have ratio 1
        "clip_high": mean((step > clip[1]).to(r.dtype)),
        "clip_low": mean((step < -clip[0]).to(r.dtype)),
        "approx_kl": mean(0.5 * log_r.square()),
    }


def kl(mean: Tensor, mean_ref: Tensor, std: Tensor, free: Tensor) -> Tensor:
    """KL of two Gaussian steps of equal std, per dimension: [B, C, F, H, W] twice and std [B] -> [B].

    (mean - mean_ref)^2 / (2 std^2), averaged over channels and free positions. std is the true one-step std,
    or the level s without sqrt(dt) to reproduce Flow-GRPO (kl_dt=none): the caller's choice, and beta's scale
    depends on it.
    """
    return _square_distance(mean, mean_ref, free) / (2.0 * std.square())


def guard_ratio(
    dlogp: Tensor,
    mean: Tensor,
    mean_old: Tensor,
    level: Tensor,
    sqrt_dt: Tensor,
    free: Tensor,
    bias: GuardBias,
    scope: RatioScope,
) -> tuple[Tensor, Tensor]:
    """GRPO-Guard (arXiv 2510.22319): the ratio r = exp((dlogp + b) sc) and its loss's factor, both [B].

    dlogp: [B], log-ratio at scope `sample` with channels averaged. mean, mean_old: [B, C, F, H, W] of the
    step under the new and the rollout's policy. level, sqrt_dt: [B], the step's std is level * sqrt_dt = sc.
    b = mean((mean - mean_old)^2) / (2 sc^2) undoes the drift of dlogp; the loss is divided by dt. bias=sample
    does this per row, so nothing depends on which rows share a micro-batch; it equals the release when all
    rows are at one step and their drift is alike. bias=batch reproduces Flow-GRPO: sc, b and dt from means
    over the micro-batch.
    Raises ValueError at other scopes.
    """
    _only_sample(scope)
    distance = _square_distance(mean, mean_old, free)
    if bias is GuardBias.batch:
        sc = sqrt_dt.mean() * level.mean()
        b = distance.mean() / (2.0 * sc.square())
        scale = (1.0 / sqrt_dt.mean().square()).expand_as(dlogp)
    else:
        sc = sqrt_dt * level
        b = distance / (2.0 * sc.square())
        scale = 1.0 / sqrt_dt.square()
    return ((dlogp + b) * sc).exp(), scale


def resolve_clip(
    clip_range: Any, scope: RatioScope, latent_shape: tuple[int, int, int, int], channel_reduction: Reduction
) -> tuple[float, float]:
    """How far the ratio may fall below and rise above 1: (low, high).

    clip_range: a number for both, or [low, high], taken as it is; None for 3e-4 on the scalar ratio
    (`sample`, `pooled`) and, at `position`, what pulls the policy back as hard as that does where it binds on
    a tenth of the samples a side: log-ratios that are mostly independent noise shrink by sqrt(F H W) when
    averaged over positions (a sum over C channels is sqrt(C) * sqrt(C F H W) times their mean over
    everything), and the clip must lie at a rarer deviation, see `rare`.
    Raises ValueError for anything else.
    """
    if clip_range is None:
        c, f, h, w = latent_shape
        value = DEFAULT_CLIP_RANGE
        if scope is RatioScope.position:
            value *= math.sqrt(f * h * w if channel_reduction is Reduction.mean else c * (c * f * h * w))
            value *= rare(f * h * w) / TENTH
        return value, value
    pair = (
        clip_range
        if isinstance(clip_range, Sequence) and not isinstance(clip_range, str)
        else [clip_range] * 2
    )
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not numbers or not all(0 < v < math.inf for v in pair) or pair[0] > 1:
        raise ValueError(
            f"advantage.clip_range={clip_range!r}: wanted null, a number above 0, or [low, high] with low "
            "<= 1 for a ratio in 1-low..1+high; "
            "type advantage.clip_range=1e-4 or advantage.clip_range=[1e-4,2e-4]"
        )
    return float(pair[0]), float(pair[1])


def rare(positions: int) -> float:
    """The deviation, in standard ones, at which a clip of each position's ratio pulls the policy back as a
    clip of the sample's does at a tenth a side: z with sqrt(positions) phi(z) = phi(1.28).
    """
    return math.sqrt(math.log(positions) + TENTH**2)


def allowed_share(positions: int) -> float:
    """Share of the positions' ratios, a side, beyond that deviation: .1 for one, .0008 for 4096."""
    return 0.5 * math.erfc(rare(positions) / math.sqrt(2))


def _square_distance(a: Tensor, b: Tensor, free: Tensor) -> Tensor:
    return reduce_positions((a - b).square().mean(1), free)


def _only_sample(scope: RatioScope) -> None:
    if scope is not RatioScope.sample:
        raise ValueError(
            f"advantage.guard works on one ratio per sample, got advantage.ratio_scope={scope}; "
            "type advantage.ratio_scope=sample or advantage.guard=null"
        )
