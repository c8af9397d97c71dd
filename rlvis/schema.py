"""The configuration, one dataclass a group: typed, closed, and the only place where defaults live besides
conf/.

Hydra composes conf/train.yaml over these (registered by `register`), so an unknown key or a value of a wrong
type is an error before anything heavy loads. Names are those of the papers and of the field; units stand in
the comments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


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


class KernelName(Enum):
    sde = "sde"
    cps = "cps"
    ddim = "ddim"
    ode = "ode"


class NoiseName(Enum):
    flow = "flow"
    dance = "dance"
    wan = "wan"
    flow_clipped = "flow_clipped"


class LogProbForm(Enum):
    gaussian = "gaussian"
    squared = "squared"


class WindowKind(Enum):
    all = "all"
    random_subset = "random_subset"
    fixed = "fixed"
    random_window = "random_window"
    progressive = "progressive"


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class RatioScope(Enum):
    sample = "sample"
    position = "position"
    pooled = "pooled"


class Reduction(Enum):
    mean = "mean"
    sum = "sum"


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


class PriorKind(Enum):
    none = "none"
    constant = "constant"
    record = "record"
    reference = "reference"
    first_frame = "first_frame"
    moving_average = "moving_average"
    hierarchical = "hierarchical"


# Written as a call because `global` is a keyword of Python.
PriorScope = Enum("PriorScope", {"global": "global", "prompt": "prompt"})


class CfgGrad(Enum):
    both = "both"
    conditional = "conditional"


class Condition(Enum):
    none = "none"
    first_frame = "first_frame"


class MapSource(Enum):
    none = "none"
    psm = "psm"


class MapBackbone(Enum):
    dinov2 = "dinov2"
    dinov3 = "dinov3"
    resnet = "resnet"
    sam = "sam"
    siglip = "siglip"
    tiny = "tiny"


class PcaFit(Enum):
    frame = "frame"
    clip = "clip"


class PcaSign(Enum):
    max_abs_score = "max_abs_score"
    max_abs_loading = "max_abs_loading"
    border = "border"


class PcaSolver(Enum):
    exact = "exact"
    subspace = "subspace"


class Aggregation(Enum):
    weighted = "weighted"
    average = "average"
    first_pc = "first_pc"


class MapNorm(Enum):
    minmax = "minmax"
    mean1 = "mean1"


class ApplyTo(Enum):
    advantage = "advantage"
    reward = "reward"


# Written as a call because `raise` is a keyword of Python.
OnMapError = Enum("OnMapError", {"raise": "raise", "uniform": "uniform"})


class Executor(Enum):
    """Where scorers run: in turn with the rollout, beside it in a thread, on servers, in Ray actors."""

    inline = "inline"
    thread = "thread"
    http = "http"
    ray = "ray"


class SentinelAction(Enum):
    """What an alarm of the sentinels does; off: nobody looks."""

    off = "off"
    warn = "warn"
    raise_kl = "raise_kl"
    rollback = "rollback"
    stop = "stop"


class Suite(Enum):
    none = "none"
    shapes = "shapes"


@dataclass
class LoraConfig:
    """Low-rank adapters. `targets: null` takes the family's default modules."""

    rank: int = 32
    alpha: int = 64
    targets: list[str] | None = None


@dataclass
class EmaConfig:
    """Exponential moving average of the trained weights, used for samples, evaluation and export."""

    decay: float = 0.9  # capped by (1 + updates) / (10 + updates) early on
    every: int = 1  # optimizer steps between two averages


@dataclass
class ModelConfig:
    """A policy: which diffusers family, from where, how it is trained and guided."""

    family: str = MISSING  # name of an adapter in rlvis.models, or module:Class of your own
    path: str = MISSING  # hub id or folder; `asset:NAME` is a checkpoint that comes with rlvis
    revision: str | None = None  # pinned commit or tag of a hub repository
    dtype: Dtype = Dtype.float32  # of the frozen weights and of the forward pass
    height: int = MISSING  # pixels
    width: int = MISSING
    frames: int = 1  # of a sample; 1 makes images
    fps: float | None = None  # frames a second of the clips that are written; null: the family's
    condition: Condition = Condition.none  # first_frame: image-to-video, from the frame that a prompt brings
    lora: LoraConfig | None = None  # null: full fine-tuning
    ema: EmaConfig | None = None
    cfg: float = 1.0  # classifier-free guidance; 1 runs no second branch
    cfg_2: float | None = None  # of the second expert, for low noise (Wan2.2-A14B); null: cfg
    guidance: float | None = None  # embedded guidance of a distilled model (FLUX.1-dev); null: the pipeline's
    cfg_grad: CfgGrad = CfgGrad.both
    negative_prompt: str = ""
    max_tokens: int | None = None  # null: what the family's pipeline takes by default
    embed_cache: str | None = None  # folder of encoded prompts, as ~/.cache/rlvis/embeds; null: none
    gradient_checkpointing: bool = False
    vae_tiling: bool = False  # decode in overlapping tiles: less memory, seams (rlvis.observe.seams measures)
    vae_slicing: bool = False  # decode one sample of a chunk after the other: less memory, the same pictures


@dataclass
class RewardTerm:
    """One scorer: a name in rlvis.reward or a dotted path to a function `images, prompts, metadata ->
    scores`.
    """

    scorer: str = MISSING
    weight: float = 1.0
    kwargs: dict[str, Any] = field(default_factory=dict)  # checked against the scorer's signature
    frames: Any = "all"  # of a clip that the scorer sees: all, first, last, middle, every N, or [indices]


@dataclass
class CanaryConfig:
    """Fixed samples that are scored again and again: a scorer that changes its mind has drifted."""

    every: int = 0  # training steps between two looks; 0: never
    samples: int = 4  # of the first step that are kept for it
    tolerance: float = 1e-3  # of a change, in units of the first scores' spread over the samples


@dataclass
class RewardConfig:
    """The terms, and how they are asked."""

    terms: dict[str, RewardTerm] = field(default_factory=dict)
    executor: Executor = Executor.inline
    servers: list[str] = field(default_factory=list)  # http: base addresses, as http://127.0.0.1:8700
    token_env: str | None = "RLVIS_TOKEN"  # http: environment variable with their token; null: none
    timeout: float = 120.0  # http, ray: seconds until an answer counts as lost
    hedge: float | None = None  # http: seconds until a second server is asked as well; null: never
    actors: int = 1  # ray: of each term and process
    refill: int = 0  # rounds of fresh samples in place of failed ones; 0: go on with the valid ones
    cache: str | None = None  # folder of scores by content; null: none
    canary: CanaryConfig = field(default_factory=CanaryConfig)


@dataclass
class PriorConfig:
    """What a group's mean reward is compared with: mean, variance and count per prompt and objective."""

    kind: PriorKind = PriorKind.none
    value: Any = None  # constant: a number, or one per objective
    field: str | None = None  # record: the prompt's metadata field that holds the number(s)
    samples: int = 8  # reference: samples of the reference policy per prompt
    cache: str = "outputs/cache/reference"  # reference: folder of their scores, for runs of equal settings
    scope: PriorScope = PriorScope["global"]  # moving_average: one mean, or one a prompt
    decay: float = 0.9  # moving_average: weight of the past
    window: int = 256  # hierarchical: groups that the population's moments come from


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


@dataclass
class GuardConfig:
    """GRPO-Guard's ratio normalisation (arXiv 2510.22319)."""

    bias: GuardBias = GuardBias.sample  # batch: flow_grpo's, over a micro-batch with its padding


@dataclass
class MapConfig:
    """ViPO's perceptual map over a sample's positions (arXiv 2511.18719), and the log-prob at a position."""

    channel_reduction: Reduction = Reduction.mean  # of the log-prob at a position
    source: MapSource = MapSource.none  # psm: principal components of a vision backbone's tokens
    backbone: MapBackbone = MapBackbone.dinov2
    backbone_path: str | None = None  # hub id or folder; null: the usual checkpoint of that backbone
    backbone_revision: str | None = None  # pinned commit or tag of a hub repository
    backbone_dtype: Dtype = Dtype.float32  # of its weights and forward; what follows is float32
    batch: int = 16  # frames of one forward of the backbone
    components: int = 3
    pca_fit: PcaFit = PcaFit.clip  # one basis for a clip's frames, so that signs cannot flip between them
    pca_sign: PcaSign = PcaSign.border
    pca_solver: PcaSolver = PcaSolver.subspace  # what it has not solved to rounding goes to the exact one
    aggregation: Aggregation = Aggregation.weighted
    sigma: float = 1.0  # Gaussian on the patch grid, in patches; 0: none
    temporal_sigma: float = 0.3  # Gaussian over latent frames; 0: none
    map_norm: MapNorm = MapNorm.minmax  # mean1: mean 1 over the free positions
    apply_to: ApplyTo = ApplyTo.advantage  # reward: z-scores of map times reward at each position (ablation)
    on_map_error: OnMapError = OnMapError["raise"]  # uniform: ones for a sample whose features are not finite


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


@dataclass
class DataConfig:
    """Where prompts come from, and the size of a training step."""

    # shapes | shapes_video | shapes_i2v | txt | jsonl | json | csv | parquet | hub | i2v_pairs
    source: str = MISSING
    path: str | None = None  # file, folder, or hub data set
    revision: str | None = None  # pinned commit or tag of a hub data set
    split: str = "train"
    heldout: float = 0.0  # share of the prompts of split=train that only split=heldout holds, by content
    column: str = "prompt"  # of the prompt; txt and the shapes world have no columns
    keep: list[str] | None = None  # other columns, which rewards get as metadata; null: all
    image: str = "image"  # i2v_pairs: column with the path of each prompt's first frame
    quoted: str | None = None  # metadata field for what the prompt has in double quotes; others are dropped
    min_words: int = 0
    max_words: int | None = None
    min_ascii: float = 0.0  # least share of ASCII characters; 0.9 keeps English
    drop: str | None = None  # prompts in which this regular expression is found, in either case
    kinds: list[str] | None = None  # of the shapes world's prompts (single, count, direction, ...); null: all
    prompts_per_step: int = MISSING  # P
    samples_per_prompt: int = MISSING  # K, the group
    shuffle: bool = True


@dataclass
class WindowConfig:
    """Which transitions are stochastic and trained (the last one never is)."""

    kind: WindowKind = WindowKind.all
    start: int = 0  # fixed
    size: int = 2  # fixed, random_window, progressive
    low: int = 0  # random_window starts in low .. high - size
    high: int | None = None  # null: all but the last transition
    per_sample: bool = False  # every sample its own random steps; two experts then both run on all rows
    iters_per_group: int = 25  # progressive: training steps before the window moves
    stride: int = 1  # progressive: transitions the window moves by
    roll_back: bool = True  # progressive: start over at the end


@dataclass
class SamplerConfig:
    kernel: KernelName = KernelName.sde
    noise: NoiseName = NoiseName.flow
    eta: float = 0.7
    steps: int = 10
    shift: float | None = None  # null: the checkpoint's own schedule
    grid: str = "model"  # model | linear (DanceGRPO's shifted linear grid)
    logprob: LogProbForm = LogProbForm.gaussian
    window: WindowConfig = field(default_factory=WindowConfig)
    timestep_fraction: float = 1.0  # of the trainable transitions, window=random_subset
    share_noise: bool = False  # one initial noise per group
    storage: Dtype = Dtype.float32  # of the states; rounding happens before scoring


@dataclass
class OptimConfig:
    lr: float = 3e-4
    weight_decay: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    grad_norm: float = 1.0


@dataclass
class EngineConfig:
    """DeepSpeed: a ZeRO stage, or a JSON file of one's own (its batch, optimizer and clipping keys are set by
    us).
    """

    stage: int = 0
    config: str | None = None
    device: str = "auto"  # auto | cpu | cuda
    sequence_parallel: int = 1  # ranks that share the tokens of one sample; divides the number of ranks


@dataclass
class TrackerConfig:
    wandb: bool = False  # offline when no key is set
    project: str = "rlvis"
    tensorboard: bool = False
    samples_every: int = 5  # training steps between two sheets of fixed prompts and noise; 0: never
    samples: int = 8  # prompts on a sheet


@dataclass
class SentinelConfig:
    """Looks at the samples themselves for what a reward can be fooled with; see docs/sentinels.md."""

    action: SentinelAction = SentinelAction.warn
    baseline: int = 10  # training steps that say what is usual
    threshold: float = 6.0  # deviations of the baseline at which a statistic is unusual
    patience: int = 3  # unusual steps in a row before the alarm
    kl: float = 0.01  # raise_kl: the coefficient where there was none; otherwise it doubles
    rollbacks: int = 1  # rollback: how often, with half the learning rate, before the run stops


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
class EvalConfig:
    """Held-out evaluation: prompts never trained on, noise of its own, the deterministic sampler."""

    suite: Suite = Suite.none  # shapes: the shapes world's checker judges every sample
    every: int = 0  # training steps between two, also before the first and after the last; 0: not in training
    prompts: int | None = None  # how many, spread evenly over kinds; null: all
    samples: int = 1  # of each prompt
    steps: int | None = None  # of the ODE sampler; null: the default of the family's pipeline
    path: str | None = None  # a file of held-out prompts in place of data.path
    split: str = "heldout"  # in place of data.split
    kinds: list[str] | None = None  # of the shapes world's prompts; null: all
    micro_batch: int | None = None  # rows of one forward; null: train.micro_batch
    terms: dict[str, RewardTerm] = field(default_factory=dict)  # scorers beside the suite, of any data
    seed: int = 0  # of its noise, apart from the run's: runs of other seeds meet the same noise
    run: str | None = None  # rlvis eval: a run folder or one of its checkpoints; null: the bare policy


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
