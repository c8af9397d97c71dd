"""The policy: which diffusers family, from where, how it is trained and guided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from omegaconf import MISSING

from rlvis.schema.common import Dtype
from rlvis.schema.key import Key

MOST_PIXELS = 16384  # a side
ALL_LINEAR = "all-linear"  # of model.lora.targets
Side = Annotated[
    int,
    Key(
        "of a sample",
        "pixels",
        least=1,
        most=MOST_PIXELS,
        usual=512,
        relation="what the checkpoint takes",
        samples=True,
    ),
]


class CfgGrad(StrEnum):
    """Which branches of classifier-free guidance carry a gradient."""

    both = "both"
    conditional = "conditional"


class Condition(StrEnum):
    """What a sample starts from, beside noise and text."""

    none = "none"
    first_frame = "first_frame"


@dataclass
class LoraConfig:
    """Low-rank adapters."""

    rank: Annotated[
        int,
        Key(
            "of the two factors",
            least=1,
            most=MOST_PIXELS,
            relation="at most the smaller side of the widest layer that gets one",
        ),
    ] = 32
    alpha: Annotated[
        float, Key("the adapter counts alpha / rank, which exported weights contain", above=0, most=1e6)
    ] = 64.0
    targets: Annotated[
        Any,
        Key(
            "layers that get one: a list of ends of their names; all-linear: every linear layer; null: the "
            "family's own"
        ),
    ] = None


@dataclass
class EmaConfig:
    """Exponential moving average of the trained weights, used for samples, evaluation and export."""

    decay: Annotated[
        float,
        Key(
            "weight of the old average; at most (1 + n) / (10 + n), n being the averages before this one",
            above=0,
            below=1,
        ),
    ] = 0.9
    every: Annotated[
        int,
        Key(
            "between two averages; what is exported and evaluated has the steps since the last one too",
            "optimizer steps",
            least=1,
            most=10**7,
        ),
    ] = 1


@dataclass
class ModelConfig:
    """A policy: which diffusers family, from where, how it is trained and guided."""

    family: Annotated[
        str,
        Key(
            "adapter of a diffusers pipeline: a module of rlvis/models/families, or MODULE.CLASS of your own",
            samples=True,
        ),
    ] = MISSING
    path: Annotated[
        str,
        Key("hub id or folder; asset:NAME is a checkpoint that comes with rlvis", path=True, samples=True),
    ] = MISSING
    revision: Annotated[str | None, Key("commit or tag of a hub repository", samples=True)] = None
    dtype: Annotated[Dtype, Key("of the frozen weights and of the forward pass", samples=True)] = (
        Dtype.float32
    )
    height: Side = MISSING
    width: Side = MISSING
    frames: Annotated[
        int,
        Key(
            "of a sample; 1 makes images",
            "frames",
            least=1,
            most=4096,
            relation="what the checkpoint takes",
            samples=True,
        ),
    ] = 1
    fps: Annotated[
        float | None,
        Key("of the clips that are written; null: the family's", "frames/s", above=0, most=1000, usual=16),
    ] = None
    condition: Annotated[
        Condition,
        Key("first_frame: image-to-video, from the frame that a prompt brings", samples=True),
    ] = Condition.none
    lora: Annotated[LoraConfig | None, Key("low-rank adapters; null: full fine-tuning")] = None
    ema: Annotated[EmaConfig | None, Key("moving average of the trained weights; null: none")] = None
    cfg: Annotated[
        float,
        Key("classifier-free guidance; 1 runs no second branch", least=1, usual=4.5, samples=True),
    ] = 1.0
    cfg_2: Annotated[
        float | None,
        Key("of the second expert, for low noise (Wan2.2-A14B); null: cfg", least=1, samples=True),
    ] = None
    guidance: Annotated[
        float | None,
        Key("embedded, of a distilled model (FLUX.1-dev); null: the pipeline's", least=0, samples=True),
    ] = None
    cfg_grad: Annotated[
        CfgGrad, Key("branches of guidance that carry a gradient", relation="read with model.cfg above 1")
    ] = CfgGrad.both
    negative_prompt: Annotated[
        str,
        Key("text of the second branch", relation="read with model.cfg above 1", samples=True),
    ] = ""
    max_tokens: Annotated[
        int | None,
        Key(
            "of a prompt; null: what the family's pipeline takes by default",
            "tokens",
            least=1,
            most=10**6,
            relation="what the family takes",
            samples=True,
        ),
    ] = None
    embed_cache: Annotated[
        str | None, Key("folder of encoded prompts, as ~/.cache/rlvis/embeds; null: none", path=True)
    ] = None
    gradient_checkpointing: Annotated[
        bool, Key("compute activations again in the backward pass: less memory, more time")
    ] = False
    vae_tiling: Annotated[
        bool,
        Key("decode in overlapping tiles: less memory, and seams (rlvis.observe.seams)", samples=True),
    ] = False
    vae_slicing: Annotated[
        bool,
        Key("decode one sample of a chunk after the other: less memory, the same pictures", samples=True),
    ] = False
