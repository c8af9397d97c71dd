"""How far each group is believed, and the contrast inside groups (BPGO, arXiv 2511.18919)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from rlvis.schema.key import Key

EXP, GATED = ("trust.crt.form=exp",), ("trust.crt.form=gated",)


class TrustScale(StrEnum):
    """The unit of deviations from the prior: the reward's own, or its running standard deviation."""

    raw = "raw"
    running_std = "running_std"


class CrtForm(StrEnum):
    """The contrast: none, a term of its own, or in place of the reward."""

    none = "none"
    exp = "exp"
    gated = "gated"


Alpha = Annotated[float, Key("how far the bounds count; 0: every weight is 1", least=0, most=1000)]
PriorVar = Annotated[
    float | None,
    Key("of the prior; null: its own", "trust.scale squared", above=0, most=1e12, usual=1),
]
Lowest = Annotated[
    float, Key("the least weight, before alpha", least=0, most=1000, relation="at most w_max of its section")
]
Highest = Annotated[
    float,
    Key("the largest weight, before alpha", least=0, most=1000, relation="at least w_min of its section"),
]


@dataclass
class RasConfig:
    """Reliability-adaptive scaling: w = 1 + alpha (2 sigmoid(k (mean - prior) / scale) - 1)."""

    alpha: Annotated[
        float,
        Key("w lies in 1 - alpha .. 1 + alpha; above 1 a weight would turn negative", least=0, most=1),
    ] = 0.5
    k: Annotated[float, Key("slope", "1 / trust.scale", least=0, most=1e12)] = 4.0
    weight_crt: Annotated[
        bool,
        Key(
            "whether w multiplies the contrast term too",
            relation="read with every trust.kind but none, and trust.crt.form=exp",
        ),
    ] = False


@dataclass
class PosteriorConfig:
    """The weight from the probability that the posterior mean lies above the prior's."""

    alpha: Alpha = 1.0
    prior_var: PriorVar = 1.0
    w_min: Lowest = 0.5
    w_max: Highest = 1.5


@dataclass
class AgreementConfig:
    """The weight from how well the group's mean agrees with the prior, on either side."""

    alpha: Alpha = 1.0
    prior_var: PriorVar = 1.0
    w_min: Lowest = 0.5
    w_max: Highest = 1.5


@dataclass
class CrtConfig:
    """Contrastive reward transformation: samples of a group are spread around the prior."""

    form: Annotated[
        CrtForm,
        Key(
            "exp: a term of its own; gated: replaces the reward, and turns those below half the prior around"
        ),
    ] = CrtForm.none
    weight: Annotated[
        float, Key("coefficient of the term, varsigma in the paper", least=0, most=1e6, only=EXP)
    ] = 0.5
    lam: Annotated[
        float,
        Key(
            "slope, lambda in the paper; the command line takes trust.crt.lambda as well",
            "1 / trust.scale",
            least=0,
            most=1e12,
            only=EXP,
        ),
    ] = 1.0
    monotone: Annotated[
        bool, Key("deviations below -1 count as -1, so that no pair changes its order", only=EXP)
    ] = False
    gain: Annotated[
        float, Key("slope, a in the release", "1 / trust.scale", least=0, most=1e12, only=GATED)
    ] = 50.0
    tau: Annotated[float, Key("temperature of the gate", "trust.scale", above=0, most=1e12, only=GATED)] = 5.0


@dataclass
class TrustConfig:
    """How far each group is believed, and the contrast inside groups (BPGO, arXiv 2511.18919).

    The section named as trust.kind holds the keywords of that form; the others are not read.
    """

    kind: Annotated[
        str, Key("a module of rlvis/trust/forms, or MODULE.FUNCTION of your own; none: all groups alike")
    ] = "none"
    scale: Annotated[
        TrustScale,
        Key(
            "unit of deviations from the prior; running_std: standard deviations of the reward",
            relation="read with a trust.kind or trust.crt.form other than none",
        ),
    ] = TrustScale.raw
    scale_decay: Annotated[
        float,
        Key("of the past, a training step", "weight", least=0, below=1, only=("trust.scale=running_std",)),
    ] = 0.9
    ras: RasConfig = field(default_factory=RasConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    crt: CrtConfig = field(default_factory=CrtConfig)
    kwargs: Annotated[
        dict[str, Any], Key("of a trust of your own, by name; checked against its signature")
    ] = field(default_factory=dict)
