"""How far each group is believed, and the contrast inside groups (BPGO, arXiv 2511.18919)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class TrustKind(Enum):
    none = "none"
    ras = "ras"
    posterior = "posterior"
    agreement = "agreement"


class TrustScale(Enum):
    raw = "raw"
    running_std = "running_std"


class CrtForm(Enum):
    none = "none"
    exp = "exp"
    gated = "gated"


@dataclass
class RasConfig:
    """Reliability-adaptive scaling: w = 1 + alpha (2 sigmoid(k (mean - prior) / scale) - 1)."""

    alpha: float = 0.5  # w lies in 1 - alpha .. 1 + alpha
    k: float = 4.0  # slope, per unit of trust.scale
    weight_crt: bool = False  # whether w multiplies the contrast term too (with every trust.kind)


@dataclass
class PosteriorConfig:
    """The weight from the probability that the posterior mean lies above the prior's."""

    alpha: float = 1.0  # 0: w = 1
    prior_var: float | None = 1.0  # in units of trust.scale squared; null: the prior's own variance
    w_min: float = 0.5
    w_max: float = 1.5


@dataclass
class AgreementConfig:
    """The weight from how well the group's mean agrees with the prior, on either side."""

    alpha: float = 1.0
    prior_var: float | None = 1.0
    w_min: float = 0.5
    w_max: float = 1.5


@dataclass
class CrtConfig:
    """Contrastive reward transformation: samples of a group are spread around the prior."""

    form: CrtForm = CrtForm.none  # exp: a term of its own; gated: replaces the reward
    weight: float = 0.5  # exp: coefficient of the term, varsigma in the paper
    lam: float = 1.0  # exp: slope, lambda in the paper; the command line takes trust.crt.lambda as well
    monotone: bool = False  # exp: deviations below -1 count as -1, so that no pair changes its order
    gain: float = 50.0  # gated: slope, a in the release
    tau: float = 5.0  # gated: temperature of the gate


@dataclass
class TrustConfig:
    """How far each group is believed, and the contrast inside groups (BPGO, arXiv 2511.18919)."""

    kind: TrustKind = TrustKind.none
    scale: TrustScale = TrustScale.raw  # unit of deviations from the prior
    scale_decay: float = 0.9  # running_std: weight of the past
    ras: RasConfig = field(default_factory=RasConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    crt: CrtConfig = field(default_factory=CrtConfig)
