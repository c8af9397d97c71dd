"""The `weigh` stage: Rewards and the prior's memory become Trust and the next memory.

Raw rewards -> objectives -> unit and prior from the memory before the step -> weight per group and contrast
inside groups. Trust is per objective: one for a weighted sum of rewards, one per reward otherwise. A group
gets weight 1 where there is nothing to compare: it has no valid sample, or its prior rests on nothing yet (a
moving average in the step that starts it). BPGO: arXiv 2511.18919.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlvis.records import PriorState, PromptBatch, Rewards, Trust
from rlvis.schema import (
    AgreementConfig,
    Combine,
    CrtConfig,
    CrtForm,
    PosteriorConfig,
    PriorConfig,
    TrustConfig,
    TrustKind,
)
from rlvis.trust import contrast, priors, ras, scale
from rlvis.trust.groups import Groups, groups
from rlvis.trust.priors import Prior


def weigh(
    rewards: Rewards,
    state: PriorState,
    trust: TrustConfig,
    prior: PriorConfig,
    combine: Combine,
    prompts: PromptBatch,
    reference: Rewards | None = None,
) -> tuple[Trust, PriorState]:
    """Weights [P, Q] and contrast [P, K, Q], float64 on the CPU, and the state after this step.

    reference: scores [P, Kref, R] of the same prompts by the reference policy, or of their condition frames
    (Kref = 1), for the priors that read them; prompts that the state remembers need none.
    Raises ValueError for a form without its prior, a state that another kind of prior wrote, rewards that a
    form cannot take, and a negative reward weight where each reward is an objective (trust reads high as
    good).
    """
    _refuse(rewards, state, trust, prior, combine)
    observed = groups(rewards, combine)
    other = None if reference is None else groups(reference, combine)
    unit, memory = scale.unit(observed, trust, state.values)
    anchor, kept = priors.priors(observed, prior, state.values, prompts, other)
    after = PriorState(kind=prior.kind.value, values={**kept, **memory})
    if anchor is None:
        alike = Trust(
            weight=torch.ones_like(observed.mean),
            contrast=None,
            contrast_replaces=False,
            anchor_mean=None,
            anchor_var=None,
            anchor_count=None,
        )
        return alike, after
    weight, used_var = _weight(observed, anchor, unit, trust)
    weight = torch.where((observed.count > 0) & (anchor.count > 0), weight, 1.0)
    weighed = Trust(
        weight=weight,
        contrast=_contrast(observed, anchor, unit, trust.crt, prompts),
        contrast_replaces=trust.crt.form is CrtForm.gated,
        anchor_mean=anchor.mean,
        anchor_var=used_var,
        anchor_count=anchor.count,
    )
    return weighed, after


def _refuse(
    rewards: Rewards, state: PriorState, trust: TrustConfig, prior: PriorConfig, combine: Combine
) -> None:
    if state.kind != prior.kind.value:
        raise ValueError(
            f"the state of the prior was written by kind {state.kind!r}, this run has "
            f"prior.kind={prior.kind.value!r}; type prior.kind={state.kind} or start a new run"
        )
    active = [
        f"{key}={value.value}"
        for key, value in (("trust.kind", trust.kind), ("trust.crt.form", trust.crt.form))
        if value.value != "none"
    ]
    if active and prior.kind.value == "none":
        raise ValueError(
            f"{' and '.join(active)} compares rewards with a prior, and prior.kind=none; "
            "type prior=moving_average"
        )
    if active and combine is not Combine.weighted_sum and min(rewards.weights) < 0:
        name = rewards.names[rewards.weights.index(min(rewards.weights))]
        raise ValueError(
            f"{' and '.join(active)} reads a high reward as good, but with advantage.combine={combine.value} "
            f"the reward {name!r} counts by itself and has the weight {min(rewards.weights):g}; "
            "type advantage.combine=weighted_sum, or give the reward the other sign"
        )


def _weight(observed: Groups, anchor: Prior, unit: Tensor, trust: TrustConfig) -> tuple[Tensor, Tensor]:
    """Weight [P, Q] of every group, and the prior variance [P, Q] that was used, in raw units."""
    if trust.kind is TrustKind.none:
        return torch.ones_like(observed.mean), anchor.var
    if trust.kind is TrustKind.ras:
        delta = (observed.mean - anchor.mean) / unit
        return ras.sigmoid(delta, trust.ras.alpha, trust.ras.k), anchor.var
    form: PosteriorConfig | AgreementConfig
    form, rule = (
        (trust.posterior, ras.posterior)
        if trust.kind is TrustKind.posterior
        else (trust.agreement, ras.agreement)
    )
    var = anchor.var / unit.square()
    used = anchor.var
    if form.prior_var is not None:
        var = torch.full_like(anchor.var, form.prior_var)
        used = torch.where(unit.isfinite(), var * unit.square(), anchor.var)
    weight = rule(
        observed.mean / unit,
        observed.var / unit.square(),
        observed.count,
        anchor.mean / unit,
        var,
        alpha=form.alpha,
        w_min=form.w_min,
        w_max=form.w_max,
    )
    return weight, used


def _contrast(
    observed: Groups, anchor: Prior, unit: Tensor, crt: CrtConfig, prompts: PromptBatch
) -> Tensor | None:
    """The transformed rewards [P, K, Q] (0 where not valid), or None without a contrast."""
    if crt.form is CrtForm.none:
        return None
    prior = anchor.mean[:, None]
    if crt.form is CrtForm.exp:
        deviation = (observed.values - prior) / unit
        above = observed.values > prior
        return contrast.exp(deviation, above, observed.valid, lam=crt.lam, monotone=crt.monotone)
    contrast.refuse_nonpositive(observed.values, observed.valid, prompts)
    value = contrast.gated(observed.values / unit, prior / unit, gain=crt.gain, tau=crt.tau)
    return torch.where(observed.valid[..., None], value, 0.0)
