"""The whole configuration, and what concerns a run as such."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from rlvis.schema.advantage import AdvantageConfig
from rlvis.schema.data import DataConfig
from rlvis.schema.engine import EngineConfig, OptimConfig
from rlvis.schema.evaluation import EvalConfig
from rlvis.schema.model import ModelConfig
from rlvis.schema.observe import SentinelConfig, TrackerConfig
from rlvis.schema.prior import PriorConfig
from rlvis.schema.reward import RewardConfig
from rlvis.schema.sampler import SamplerConfig
from rlvis.schema.trust import TrustConfig


class Doctor(Enum):
    """What its findings stop: nothing (off: no checks at all), what would spoil the run, also what may."""

    off = "off"
    warn = "warn"
    strict = "strict"


class Stage(Enum):
    """Which stages a run executes: all of them, or one alone on saved records; `reference` scores prompts for
    prior.kind=reference and reads none.
    """

    all = "all"
    rollout = "rollout"
    score = "score"
    weigh = "weigh"
    build = "build"
    update = "update"
    reference = "reference"


@dataclass
class TrainConfig:
    steps: int = 100
    updates_per_step: int = 2
    micro_batch: int = (
        8  # rows of one forward, in rollout and update alike: equal shapes make the ratio exactly 1
    )
    save_every: int = 0  # training steps between two checkpoints; 0: at the end only
    keep: int = 2  # checkpoints kept
    save_records: bool = False  # keep every step's records in the run folder
    shard: int = 0  # rows rolled out, decoded and scored at a time; 0: all of a rank's
    score_retries: int = 2  # of a failed scorer call


@dataclass
class Config:
    """The whole of train.yaml."""

    model: ModelConfig = MISSING
    reward: RewardConfig = MISSING
    prior: PriorConfig = MISSING
    trust: TrustConfig = MISSING
    advantage: AdvantageConfig = MISSING
    data: DataConfig = MISSING
    sampler: SamplerConfig = MISSING
    engine: EngineConfig = MISSING
    tracker: TrackerConfig = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sentinels: SentinelConfig = field(default_factory=SentinelConfig)
    seed: int = 0
    name: str = "run"
    run_dir: str | None = None  # null: outputs/NAME/DATE_TIME
    resume: str | None = None  # auto | a run folder
    resume_allow: list[str] = field(default_factory=list)  # keys that a resumed run may change, as optim.lr
    doctor: Doctor = Doctor.warn  # what the checks before training may stop; see rlvis doctor
    stage: Stage = Stage.all
    records: str | None = None  # folder of saved records, for stage=...
    dry_run: bool = False
    plan: bool = False  # tell memory of a GPU and seconds of a step, from configuration files alone, and stop
    plan_gpus: int | None = None  # plan: GPUs to share out over; null: the processes that were started
    plan_gib: float | None = None  # plan: memory of a GPU; null: of the one that is here
    plan_gpu: str | None = None  # plan: a GPU's name, such as H100, for its speed; null: the one that is here
    plan_tflops: float | None = None  # plan: TFLOP/s that a step achieves; null: a share of the GPU's peak
    threads: int | None = None  # torch threads on a CPU


def register() -> None:
    """Put the schema into Hydra's ConfigStore; conf/*.yaml name these as `base_<group>` in their defaults."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    groups = {
        "model": ModelConfig,
        "reward": RewardConfig,
        "prior": PriorConfig,
        "trust": TrustConfig,
        "advantage": AdvantageConfig,
        "data": DataConfig,
        "sampler": SamplerConfig,
        "engine": EngineConfig,
        "tracker": TrackerConfig,
        "eval": EvalConfig,
    }
    for group, node in groups.items():
        store.store(group=group, name=f"base_{group}", node=node)


def typed(config: Any) -> Config:
    """A composed OmegaConf config as plain dataclass instances (enums resolved, interpolations done)."""
    from omegaconf import OmegaConf

    result = OmegaConf.to_object(config)
    assert isinstance(result, Config), f"composed config is a {type(result).__name__}, not a Config"
    return result


def plain(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values (enums by name), for files and trackers."""
    from omegaconf import OmegaConf

    result = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}
