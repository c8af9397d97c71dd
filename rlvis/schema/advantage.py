"""Group statistics, clipping and the scope of the ratio."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlvis.schema.maps import MapConfig

DEFAULT_CLIP_RANGE = 1e-4  # what advantage.clip_range=null means where the ratio is one number a sample


class RatioScope(Enum):
    sample = "sample"
    position = "position"
    pooled = "pooled"


class OldLogProb(Enum):
    rollout = "rollout"
    recompute = "recompute"


class Combine(Enum):
    weighted_sum = "weighted_sum"
    gdpo = "gdpo"
    separate_terms = "separate_terms"


class AdvantagePreset(Enum):
    dance = "dance"
    flow_grpo = "flow_grpo"
    ddpo = "ddpo"
    gdpo = "gdpo"


class StdScope(Enum):
    group = "group"
    batch = "batch"


class KlDt(Enum):
    dt = "dt"
    none = "none"


class GuardBias(Enum):
    sample = "sample"
    batch = "batch"


@dataclass
class GuardConfig:
    """GRPO-Guard's ratio normalisation (arXiv 2510.22319)."""

    bias: GuardBias = GuardBias.sample  # batch: flow_grpo's, over a micro-batch with its padding


@dataclass
class AdvantageConfig:
    """Group statistics, clipping and the scope of the ratio."""

    preset: AdvantagePreset = AdvantagePreset.flow_grpo  # eps, ddof and scope of the z-score
    std_scope: StdScope | None = None  # null: the preset's; `batch` is flow_grpo's global_std
    combine: Combine = Combine.weighted_sum  # of several rewards
    clip_range: Any = (
        None  # null: 1e-4, or its equivalent at ratio_scope=position; a number; or [below, above]
    )
    adv_clip: float = 5.0
    ratio_scope: RatioScope = RatioScope.sample
    kl_beta: float = 0.0
    kl_dt: KlDt = KlDt.dt
    guard: GuardConfig | None = None
    old_logprob: OldLogProb = OldLogProb.rollout
    best_of_n: int | None = None  # train the best and the worst n//2 of each group
    sign: float = 1.0  # -1 trains against the reward: a control experiment
    map: MapConfig = field(default_factory=MapConfig)
