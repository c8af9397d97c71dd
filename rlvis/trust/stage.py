"""The `weigh` stage: Rewards and the prior's memory become Trust and the next memory.

Trust is per objective: one for a weighted sum of rewards, one per reward otherwise. With `none`, every group
is trusted alike.
"""

from __future__ import annotations

import torch

from rlvis.records import PriorState, Rewards, Trust
from rlvis.schema import Combine, PriorConfig, TrustConfig

KINDS = ("none",)


def weigh(
    rewards: Rewards, state: PriorState, trust: TrustConfig, prior: PriorConfig, combine: Combine
) -> tuple[Trust, PriorState]:
    """Weights [P, Q] float64 on the CPU and the state after this step.

    Raises ValueError for a kind that does not exist, and for a state that another kind of prior wrote.
    """
    for group, kind in (("trust", trust.kind), ("prior", prior.kind)):
        if kind not in KINDS:
            raise ValueError(
                f"{group}.kind={kind!r} does not exist; these do: {', '.join(KINDS)}; "
                f"type {group}.kind={KINDS[0]}"
            )
    if state.kind != prior.kind:
        raise ValueError(
            f"the state of the prior was written by kind {state.kind!r}, "
            f"this run has prior.kind={prior.kind!r}; type prior.kind={state.kind} or start a new run"
        )
    prompts, _, terms = rewards.term.shape
    objectives = 1 if combine is Combine.weighted_sum else terms
    weight = torch.ones(prompts, objectives, dtype=torch.float64)
    none = Trust(
        weight=weight,
        contrast=None,
        contrast_replaces=False,
        anchor_mean=None,
        anchor_var=None,
        anchor_count=None,
    )
    return none, state
