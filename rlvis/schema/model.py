"""The policy: which diffusers family, from where, how it is trained and guided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from rlvis.schema.common import Dtype


class CfgGrad(Enum):
    both = "both"
    conditional = "conditional"


class Condition(Enum):
    none = "none"
    first_frame = "first_frame"


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
