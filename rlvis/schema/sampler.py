"""The transition kernel, its noise, and which transitions are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from rlvis.schema.common import Dtype
from rlvis.schema.key import Key

MOST_STEPS = 1000  # more than any sampler takes: the steps that diffusion models were trained on


class NoiseName(StrEnum):
    """s(sigma) of kernel sde; see rlvis/flow/kernels/sde.py."""

    flow = "flow"
    dance = "dance"
    wan = "wan"
    flow_clipped = "flow_clipped"


class LogProbForm(StrEnum):
    """The density of a transition, or the squared distance of Flow-CPS."""

    gaussian = "gaussian"
    squared = "squared"


class WindowKind(StrEnum):
    """How the trained transitions are chosen; see rlvis/flow/windows.py."""

    all = "all"
    random_subset = "random_subset"
    fixed = "fixed"
    random_window = "random_window"
    progressive = "progressive"


FIXED = ("sampler.window.kind=fixed",)
SIZED = ("sampler.window.kind=fixed|random_window|progressive",)
MOVING = ("sampler.window.kind=random_window|progressive",)
RANDOM = ("sampler.window.kind=random_subset|random_window",)
ONE_RANDOM = ("sampler.window.kind=random_window",)
PROGRESSIVE = ("sampler.window.kind=progressive",)
FITS = "inside the first steps - 1 transitions: the last one is never trained"


@dataclass
class WindowConfig:
    """Which transitions are stochastic and trained (the last one never is)."""

    kind: Annotated[WindowKind, Key("which transitions are trained", samples=True)] = WindowKind.all
    start: Annotated[
        int,
        Key(
            "first of them", "transitions", least=0, most=MOST_STEPS, relation=FITS, only=FIXED, samples=True
        ),
    ] = 0
    size: Annotated[
        int,
        Key("how many", "transitions", least=1, most=MOST_STEPS, relation=FITS, only=SIZED, samples=True),
    ] = 2
    low: Annotated[
        int,
        Key(
            "the window starts in low .. high - size",
            "transitions",
            least=0,
            most=MOST_STEPS,
            relation=FITS,
            only=ONE_RANDOM,
            samples=True,
        ),
    ] = 0
    high: Annotated[
        int | None,
        Key(
            "one past the last that may be inside; null: all but the last transition",
            "transitions",
            least=1,
            most=MOST_STEPS,
            relation=FITS,
            only=MOVING,
            samples=True,
        ),
    ] = None
    per_sample: Annotated[
        bool,
        Key(
            "every sample its own random steps; two experts then both run on all rows",
            only=RANDOM,
            samples=True,
        ),
    ] = False
    iters_per_group: Annotated[
        int,
        Key(
            "before the window moves",
            "training steps",
            least=1,
            most=10**7,
            relation="the window has not run empty within train.steps",
            only=PROGRESSIVE,
            samples=True,
        ),
    ] = 25
    stride: Annotated[
        int,
        Key(
            "that the window moves by",
            "transitions",
            least=1,
            most=MOST_STEPS,
            only=PROGRESSIVE,
            samples=True,
        ),
    ] = 1
    roll_back: Annotated[bool, Key("start over at the end", only=PROGRESSIVE, samples=True)] = True


@dataclass
class SamplerConfig:
    """How a sample is drawn, and which of its steps are trained."""

    kernel: Annotated[
        str,
        Key(
            "one step with its density: a module of rlvis/flow/kernels, or MODULE.NAME of your own",
            relation="adds noise, and fits the path of model.family",
            samples=True,
        ),
    ] = "sde"
    noise: Annotated[
        NoiseName, Key("form of the noise level", relation="read by kernel sde", samples=True)
    ] = NoiseName.flow
    eta: Annotated[
        float,
        Key("noise level", least=0, relation="above 0, and what the kernel takes", samples=True),
    ] = 0.7
    steps: Annotated[
        int, Key("from noise to a sample", "steps", least=2, most=MOST_STEPS, budget=True, samples=True)
    ] = 10
    shift: Annotated[
        float | None,
        Key("of the noise levels; null: the checkpoint's own schedule", above=0, usual=3, samples=True),
    ] = None
    grid: Annotated[
        str,
        Key(
            "noise levels: as the stock pipeline's (model), or DanceGRPO's shifted line (linear)",
            choices=("model", "linear"),
            samples=True,
        ),
    ] = "model"
    logprob: Annotated[LogProbForm, Key("form of the log-prob of a transition")] = LogProbForm.gaussian
    window: Annotated[WindowConfig, Key("which transitions are noisy and trained", samples=True)] = field(
        default_factory=WindowConfig
    )
    timestep_fraction: Annotated[
        float,
        Key(
            "share of the trainable transitions that is trained",
            above=0,
            most=1,
            relation="leaves at least one transition",
            only=("sampler.window.kind=random_subset",),
        ),
    ] = 1.0
    share_noise: Annotated[bool, Key("one initial noise for all samples of a prompt", samples=True)] = False
    storage: Annotated[
        Dtype, Key("dtype of the stored states, to which they are rounded before scoring", samples=True)
    ] = Dtype.float32
