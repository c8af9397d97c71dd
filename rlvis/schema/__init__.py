"""The configuration, one dataclass a group: typed, closed, and the only place where defaults live besides
conf/.

Hydra composes conf/train.yaml over these (registered by `register`), so an unknown key or a value of a wrong
type is an error before anything heavy loads. Names are those of the papers and of the field; units stand in
the comments.
"""

from __future__ import annotations

from rlvis.schema.advantage import (
    DEFAULT_CLIP_RANGE,
    AdvantageConfig,
    AdvantagePreset,
    Combine,
    GuardBias,
    GuardConfig,
    KlDt,
    OldLogProb,
    RatioScope,
    StdScope,
)
from rlvis.schema.common import Dtype, Reduction
from rlvis.schema.data import DataConfig
from rlvis.schema.engine import Device, EngineConfig, LrSchedule, OptimConfig
from rlvis.schema.evaluation import SHAPES, WORLD, EvalConfig
from rlvis.schema.maps import (
    Aggregation,
    ApplyTo,
    MapConfig,
    MapNorm,
    MapSource,
    OnMapError,
    PcaFit,
    PcaSign,
)
from rlvis.schema.model import ALL_LINEAR, CfgGrad, Condition, EmaConfig, LoraConfig, ModelConfig
from rlvis.schema.observe import SentinelAction, SentinelConfig, TrackerConfig
from rlvis.schema.prior import PriorConfig, PriorScope
from rlvis.schema.reward import CanaryConfig, Executor, RewardConfig, RewardTerm
from rlvis.schema.run import Config, Doctor, Stage, TrainConfig, plain, register, sample_values, typed
from rlvis.schema.sampler import LogProbForm, NoiseName, SamplerConfig, WindowConfig, WindowKind
from rlvis.schema.trust import (
    AgreementConfig,
    CrtConfig,
    CrtForm,
    PosteriorConfig,
    RasConfig,
    TrustConfig,
    TrustScale,
)
