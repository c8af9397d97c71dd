"""The `weigh` stage: Rewards and the prior's memory become Trust and the next memory.

Raw rewards -> objectives -> unit and prior from the memory before the step -> weight per group and contrast
inside groups. Trust is per objective: one for a weighted sum of rewards, one per reward otherwise. A group
gets weight 1 where there is nothing to compare: it has no valid sample, or its prior rests on nothing yet (a
moving average in the step that starts it). BPGO: arXiv 2511.18919.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlvis.records import PriorState, PromptBatch, Rewards, Trust
from rlvis.schema import Combine, CrtConfig, CrtForm, PriorConfig, TrustConfig
from rlvis.trust import contrast, scale
from rlvis.trust.form import form_of, weights
from rlvis.trust.groups import Groups, groups
from rlvis.trust.prior import Anchor, anchored, prior_of


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
    form cannot take, a negative reward weight where each reward is an objective (trust reads high as good),
    and a prior or trust of the user's that returns something else than it should.
    """
    _refuse(rewards, state, trust, prior, combine)
    observed = groups(rewards, combine)
    other = None if reference is None else groups(reference, combine)
    unit, memory = scale.unit(observed, trust, state.values)
    observed = replace(observed, unit=unit)
    anchor, kept = anchored(prior_of(prior), prior.kind, observed, state.values, prompts, other)
    after = PriorState(kind=prior.kind, values={**kept, **memory})
    if anchor is None:
        alike = Trust(
            weight=torch.ones_like(observed.mean),
            contrast=None,
            contrast_share=None,
            contrast_replaces=False,
            anchor_mean=None,
            anchor_var=None,
            anchor_count=None,
        )
        return alike, after
    weighed = weights(form_of(trust), trust.kind, observed, anchor, unit)
    contrasted, share = _contrast(observed, anchor, trust.crt, prompts)
    judged = Trust(
        weight=weighed.weight,
        contrast=contrasted,
        contrast_share=share,
        contrast_replaces=trust.crt.form is CrtForm.gated,
        anchor_mean=anchor.mean,
        anchor_var=weighed.prior_var,
        anchor_count=anchor.count,
    )
    return judged, after


def _refuse(
    rewards: Rewards, state: PriorState, trust: TrustConfig, prior: PriorConfig, combine: Combine
) -> None:
    if state.kind != prior.kind:
        raise ValueError(
            f"the state of the prior was written by kind {state.kind!r}, this run has "
            f"prior.kind={prior.kind!r}; type prior.kind={state.kind} or start a new run"
        )
    active = [
        f"{key}={value}"
        for key, value in (("trust.kind", trust.kind), ("trust.crt.form", trust.crt.form))
        if value != "none"
    ]
    if active and prior.kind == "none":
        raise ValueError(
            f"{' and '.join(active)} compares rewards with a prior, and prior.kind=none; "
            "type prior=moving_average"
        )
    if active and combine is not Combine.weighted_sum and min(rewards.weights) < 0:
        name = rewards.names[rewards.weights.index(min(rewards.weights))]
        raise ValueError(
            f"{' and '.join(active)} reads a high reward as good, but with advantage.combine={combine} "
            f"the reward {name!r} counts by itself and has the weight {min(rewards.weights):g}; "
            "type advantage.combine=weighted_sum, or give the reward the other sign"
        )


def _contrast(
    observed: Groups, anchor: Anchor, crt: CrtConfig, prompts: PromptBatch
) -> tuple[Tensor | None, Tensor | None]:
    """The transformed rewards [P, K, Q] (0 where not valid) and their groups' shares [P, Q], or None without
    a contrast.
    """
    if crt.form is CrtForm.none:
        return None, None
    values, valid, prior = observed.values, observed.valid, anchor.mean[:, None]
    deviation = (values - prior) / observed.unit
    share = contrast.share(deviation, valid)
    if crt.form is CrtForm.exp:
        return contrast.exp(deviation, valid, lam=crt.lam, monotone=crt.monotone), share
    contrast.refuse_nonpositive(values, valid, prompts)
    value = contrast.gated(values / observed.unit, prior / observed.unit, gain=crt.gain, tau=crt.tau)
    return torch.where(valid[..., None], value, 0.0), share
