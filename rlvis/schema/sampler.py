"""The transition kernel, its noise, and which transitions are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rlvis.schema.common import Dtype


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
