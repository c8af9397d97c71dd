"""The whole configuration, and what concerns a run as such."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from omegaconf import MISSING

from rlvis.schema.advantage import AdvantageConfig
from rlvis.schema.data import DataConfig
from rlvis.schema.engine import EngineConfig, OptimConfig
from rlvis.schema.evaluation import EvalConfig
from rlvis.schema.key import Key, marks
from rlvis.schema.model import ModelConfig
from rlvis.schema.observe import SentinelConfig, TrackerConfig
from rlvis.schema.prior import PriorConfig
from rlvis.schema.reward import RewardConfig
from rlvis.schema.sampler import SamplerConfig
from rlvis.schema.trust import TrustConfig


class Doctor(StrEnum):
    """What its findings stop: nothing (off: no checks at all), what would spoil the run, also what may."""

    off = "off"
    warn = "warn"
    strict = "strict"


class Stage(StrEnum):
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
    """The length of a run, the shape of its forwards, and what is kept."""

    steps: Annotated[int, Key("of the run", "training steps", least=1, most=10**7, budget=True)] = 100
    updates_per_step: Annotated[
        int,
        Key(
            "optimizer steps of a training step, each on a part of its samples",
            least=1,
            most=10**5,
            relation="at most the samples that a step trains",
            budget=True,
        ),
    ] = 2
    micro_batch: Annotated[
        int,
        Key(
            "rows of one forward, in rollout and update alike: equal shapes make the ratio exactly 1",
            "samples",
            least=1,
            most=10**5,
            budget=True,
        ),
    ] = 8
    save_every: Annotated[
        int,
        Key(
            "between two checkpoints; 0: at the end only", "training steps", least=0, most=10**7, budget=True
        ),
    ] = 0
    keep: Annotated[int, Key("that stay; older ones go", "checkpoints", least=1, most=10**6, budget=True)] = 2
    save_records: Annotated[bool, Key("keep every step's records in the run folder", budget=True)] = False
    shard: Annotated[
        int,
        Key(
            "rolled out, decoded and scored at a time; 0: all of a rank's",
            "samples",
            least=0,
            most=10**7,
            budget=True,
        ),
    ] = 0
    score_retries: Annotated[int, Key("of a failed scorer call", least=0, most=1000, budget=True)] = 2


PLAN = ("plan=true",)


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
    seed: Annotated[
        int, Key("of every draw: weights of adapters, noise, prompts", least=-(2**63), most=2**63 - 1)
    ] = 0
    name: Annotated[str, Key("of the folder below outputs/: text without a slash", path=True)] = "run"
    run_dir: Annotated[str | None, Key("folder of the run; null: outputs/NAME/DATE_TIME", path=True)] = None
    resume: Annotated[
        str | None,
        Key("go on with a run: auto (the newest of this name) or its folder", usual="auto", path=True),
    ] = None
    resume_allow: Annotated[
        list[str], Key("keys that a resumed run may change, as optim.lr", only=("resume=set",))
    ] = field(default_factory=list)
    doctor: Annotated[Doctor, Key("what the checks before training may stop; see rlvis doctor")] = Doctor.warn
    stage: Annotated[Stage, Key("all stages of training, or one alone on saved records")] = Stage.all
    records: Annotated[str | None, Key("folder of saved records, for stage=...", path=True)] = None
    dry_run: Annotated[bool, Key("check the configuration and its files, tell the numbers, and stop")] = False
    plan: Annotated[
        bool,
        Key("tell memory of a GPU and seconds of a step, from configuration files alone, and stop"),
    ] = False
    plan_gpus: Annotated[
        int | None,
        Key(
            "to share out over; null: the processes that were started",
            "GPUs",
            least=1,
            most=10**5,
            usual=8,
            only=PLAN,
        ),
    ] = None
    plan_gib: Annotated[
        float | None,
        Key(
            "memory of a GPU; null: of the one that is here", "GiB", above=0, most=10**6, usual=80, only=PLAN
        ),
    ] = None
    plan_gpu: Annotated[
        str | None,
        Key("a GPU's name, such as H100, for its speed; null: the one that is here", only=PLAN),
    ] = None
    plan_tflops: Annotated[
        float | None,
        Key(
            "that a step achieves; null: a share of the GPU's peak",
            "TFLOP/s",
            above=0,
            most=10**6,
            usual=400,
            only=PLAN,
        ),
    ] = None
    threads: Annotated[
        int | None, Key("of torch on a CPU; null: torch's own choice", "threads", least=1, most=1024, usual=1)
    ] = None


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


def sample_values(section: Any) -> dict[str, Any]:
    """Of one section of a configuration, the plain values of the keys that a drawn sample depends on."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.structured(section), resolve=True, enum_to_str=True)
    assert isinstance(values, dict)
    return {name: values[name] for name, mark in marks(section).items() if mark.samples}
