"""Rewards, prompts and configurations for tests of trust."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlvis.advantage.stage import build
from rlvis.records import Advantages, PriorState, PromptBatch, RewardHistory, Rewards, Trust
from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    Combine,
    CrtConfig,
    CrtForm,
    PriorConfig,
    RasConfig,
    TrustConfig,
    TrustScale,
)
from rlvis.trust import contrast
from rlvis.trust.stage import weigh

DANCE = AdvantageConfig(preset=AdvantagePreset.dance)
CONSTANT = PriorConfig(kind="constant", value=0.5)
AVERAGE = PriorConfig(kind="moving_average")
RAS = TrustConfig(kind="ras")
EXP = CrtConfig(form=CrtForm.exp)
BPGO = TrustConfig(kind="ras", scale=TrustScale.running_std, crt=EXP)
FORMS = [TrustConfig(kind=kind) for kind in ("ras", "posterior", "agreement")]
SUM = Combine.weighted_sum


def rewards(values: Any, valid: Tensor | None = None, weights: tuple[float, ...] | None = None) -> Rewards:
    """Rewards from [P, K] or [P, K, R] numbers; what is not finite is not valid."""
    term = torch.as_tensor(values, dtype=torch.float64)
    term = term[..., None] if term.ndim == 2 else term
    size = term.shape[-1]
    mask = torch.isfinite(term).all(-1) if valid is None else valid
    return Rewards(
        term=term,
        names=tuple("abcdef"[:size]),
        weights=weights or (1.0,) * size,
        valid=mask,
        latency=(0.0,) * size,
    )


def prompts(index: Any, metadata: list[dict[str, Any]] | None = None) -> PromptBatch:
    """Prompts with these positions in the data set (a number: the first so many)."""
    place = torch.arange(index) if isinstance(index, int) else torch.as_tensor(index)
    texts = tuple(f"prompt {i}" for i in place.tolist())
    return PromptBatch(index=place, texts=texts, metadata=tuple(metadata or [{} for _ in texts]))


def ran(
    scored: Rewards,
    trust: TrustConfig,
    prior: PriorConfig = CONSTANT,
    state: PriorState | None = None,
    combine: Combine = SUM,
    index: Any = None,
    **more: Any,
) -> tuple[Trust, PriorState]:
    """`weigh` with a fresh state and consecutive prompts unless told otherwise."""
    batch = prompts(scored.rows if index is None else index, more.pop("metadata", None))
    return weigh(scored, state or PriorState(kind=prior.kind), trust, prior, combine, batch, **more)


def advantages(scored: Rewards, trust: TrustConfig, prior: PriorConfig = CONSTANT, **more: Any) -> Advantages:
    """weigh, then build, as the pipeline calls them."""
    config = more.pop("config", DANCE)
    judged, _ = ran(scored, trust, prior, combine=config.combine, **more)
    index = torch.arange(scored.rows)
    return build(
        scored,
        judged,
        config,
        index,
        RewardHistory(),
        contrast_coef=trust.crt.weight,
        weigh_contrast=trust.ras.weight_crt,
    )[0]


def ras(alpha: float = 0.5, k: float = 4.0, **changes: Any) -> TrustConfig:
    """The sigmoid form."""
    return replace(TrustConfig(kind="ras", ras=RasConfig(alpha=alpha, k=k)), **changes)


def exp_raw(reward: Tensor, prior: Tensor, *, lam: float) -> Tensor:
    """Eq. 4 as written, (lam (R - P) + 1{R > P}) exp(R), the exponent clamped to +-30 as in the release, and
    R > P as for us; training uses `contrast.exp`.
    """
    slope = lam * (reward - prior) + (reward - prior > contrast.TIE).to(reward)
    return slope * torch.exp(reward.clamp(-30, 30))
