"""Group statistics, clipping and the scope of the ratio."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from rlvis.schema.key import Key
from rlvis.schema.maps import MapConfig

# What advantage.clip_range=null means where the ratio is one number a sample: measured on the embedded
# default (benchmarks/methods.py), three times what is published most often; published are 1e-5 to 1e-3.
DEFAULT_CLIP_RANGE = 3e-4


class RatioScope(StrEnum):
    """What has a ratio of its own: a sample, a position of it, or a sample weighed by its map."""

    sample = "sample"
    position = "position"
    pooled = "pooled"


class OldLogProb(StrEnum):
    """Where the old log-prob of a ratio comes from."""

    rollout = "rollout"
    recompute = "recompute"


class Combine(StrEnum):
    """What becomes of several rewards: one sum, a normalised sum of z-scores, or a loss term each."""

    weighted_sum = "weighted_sum"
    gdpo = "gdpo"
    separate_terms = "separate_terms"


class AdvantagePreset(StrEnum):
    """The z-score of a release: its ddof, epsilon and what it compares with."""

    dance = "dance"
    flow_grpo = "flow_grpo"
    ddpo = "ddpo"
    gdpo = "gdpo"


class StdScope(StrEnum):
    """Whose standard deviation divides: the group's, that of the step's samples, or nobody's."""

    group = "group"
    batch = "batch"
    none = "none"


class KlDt(StrEnum):
    """What the KL term is measured in: the step's own deviation, or its level without sqrt(dt)."""

    dt = "dt"
    none = "none"


class GuardBias(StrEnum):
    """What the drift of a log-ratio is taken from: the sample, or its micro-batch."""

    sample = "sample"
    batch = "batch"


@dataclass
class GuardConfig:
    """GRPO-Guard's ratio normalisation (arXiv 2510.22319)."""

    bias: Annotated[GuardBias, Key("batch: flow_grpo's, over a micro-batch with its padding")] = (
        GuardBias.sample
    )


@dataclass
class AdvantageConfig:
    """Group statistics, clipping and the scope of the ratio."""

    preset: Annotated[AdvantagePreset, Key("epsilon, ddof and scope of the z-score")] = (
        AdvantagePreset.flow_grpo
    )
    std_scope: Annotated[
        StdScope | None,
        Key(
            "whose standard deviation divides; null: the preset's; batch is flow_grpo's global_std; none: "
            "no division (Dr.GRPO), so advantages and adv_clip are in units of the reward"
        ),
    ] = None
    combine: Annotated[Combine, Key("of several rewards")] = Combine.weighted_sum
    clip_range: Annotated[
        Any,
        Key(
            "how far from 1 a ratio counts: a number, or [below, above]; null: 3e-4, or its equivalent at "
            "ratio_scope=position",
            above=0,
            most=1e6,
            relation="below 1 below the ratio of 1",
            usual=1e-4,
        ),
    ] = None
    adv_clip: Annotated[float, Key("advantages are clamped to this on either side", above=0, most=1e6)] = 5.0
    transform: Annotated[
        list[str],
        Key(
            "modules of rlvis/advantage/transforms, or MODULE.FUNCTION of your own: applied in this order "
            "after normalisation and trust, before the clamp"
        ),
    ] = field(default_factory=list)
    transform_kwargs: Annotated[
        dict[str, Any],
        Key(
            "of transforms, by the last part of their name: {my_transform: {power: 2}}; checked against "
            "their signatures"
        ),
    ] = field(default_factory=dict)
    ratio_scope: Annotated[RatioScope, Key("what has a ratio of its own")] = RatioScope.sample
    kl_beta: Annotated[
        float,
        Key("coefficient of the KL to the policy before training; 0: none", least=0, most=1e6, usual=0.01),
    ] = 0.0
    kl_dt: Annotated[
        KlDt, Key("what the KL is measured in: the step's std, or (none, as Flow-GRPO) without sqrt(dt)")
    ] = KlDt.dt
    guard: GuardConfig | None = None
    old_logprob: Annotated[
        OldLogProb, Key("where the old log-prob comes from; recompute: from a forward before the update")
    ] = OldLogProb.rollout
    best_of_n: Annotated[
        int | None,
        Key(
            "train the best and the worst n/2 of each group; null: all",
            "samples",
            least=2,
            most=10**5,
            usual=2,
            relation="even, and at most data.samples_per_prompt",
        ),
    ] = None
    sign: Annotated[
        float, Key("-1 trains against the reward: a control experiment", choices=(1.0, -1.0), usual=1)
    ] = 1.0
    map: MapConfig = field(default_factory=MapConfig)
