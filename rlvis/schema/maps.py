"""ViPO's perceptual map over a sample's positions (arXiv 2511.18719)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from rlvis.schema.common import Dtype, Reduction
from rlvis.schema.key import Key

PSM = ("advantage.map.source=psm",)
AUTO = "auto"


class MapSource(StrEnum):
    """Where a map comes from; psm: principal components of a vision backbone's tokens."""

    none = "none"
    psm = "psm"


class PcaFit(StrEnum):
    """What shares a basis: a frame, or all frames of a clip."""

    frame = "frame"
    clip = "clip"


class PcaSign(StrEnum):
    """Which end of a component is positive."""

    max_abs_score = "max_abs_score"
    max_abs_loading = "max_abs_loading"
    border = "border"


class Aggregation(StrEnum):
    """From components to one value a patch."""

    weighted = "weighted"
    average = "average"
    first_pc = "first_pc"


class MapNorm(StrEnum):
    """The last normalisation of a map: to 0 .. 1, or to a mean of 1."""

    minmax = "minmax"
    mean1 = "mean1"


class ApplyTo(StrEnum):
    """What the map multiplies."""

    advantage = "advantage"
    reward = "reward"


# Written as a call because `raise` is a keyword of Python.
OnMapError = StrEnum("OnMapError", {"raise": "raise", "uniform": "uniform"})


@dataclass
class MapConfig:
    """ViPO's perceptual map over a sample's positions (arXiv 2511.18719), and the log-prob at a position."""

    channel_reduction: Annotated[
        Reduction, Key("of the log-prob at a position, over channels; also without a map")
    ] = Reduction.mean
    source: Annotated[MapSource, Key("psm: principal components of a vision backbone's tokens")] = (
        MapSource.none
    )
    backbone: Annotated[
        str,
        Key(
            "a module of rlvis/advantage/maps/backbones, or MODULE.CLASS of your own; auto: tiny where "
            "model.path is asset:NAME and no backbone_path is set, else dinov2",
            only=PSM,
        ),
    ] = AUTO
    backbone_path: Annotated[
        str | None,
        Key(
            "hub id or folder, with timm also a name of timm's; null: the backbone's usual checkpoint",
            path=True,
            relation="needed with advantage.map.backbone=transformers or timm",
            only=PSM,
        ),
    ] = None
    backbone_revision: Annotated[
        str | None, Key("pinned commit or tag of a repository of the hub", only=PSM)
    ] = None
    backbone_dtype: Annotated[
        Dtype, Key("of the backbone's weights and forward; what follows is float32", only=PSM)
    ] = Dtype.float32
    backbone_kwargs: Annotated[
        dict[str, Any],
        Key("of a backbone of your own, by name; checked against its constructor", only=PSM),
    ] = field(default_factory=dict)
    layer: Annotated[
        int | None,
        Key(
            "whose output makes the tokens: an index of transformers' hidden_states (0: the embeddings; a "
            "ResNet's n: stage n) or of timm's forward_intermediates; null: the last, as the model ends",
            least=0,
            most=1000,
            relation="at most the backbone's layers or stages",
            only=PSM,
        ),
    ] = None
    enlarge: Annotated[
        float,
        Key(
            "frames are resized by this before the backbone, which gets more patches of a small picture",
            "times their sides",
            least=1,
            most=64,
            relation="1 with a backbone of one size",
            only=PSM,
        ),
    ] = 1.0
    batch: Annotated[int, Key("of one forward of the backbone", "frames", least=1, most=65536, only=PSM)] = 16
    components: Annotated[
        int,
        Key(
            "principal components that make a map",
            least=1,
            most=4096,
            relation="at most the width of the backbone's tokens; with aggregation=first_pc one is taken",
            only=PSM,
        ),
    ] = 3
    pca_fit: Annotated[
        PcaFit, Key("what shares a basis; with clip no sign can flip between frames", only=PSM)
    ] = PcaFit.clip
    pca_sign: Annotated[PcaSign, Key("which end of a component is positive", only=PSM)] = PcaSign.border
    aggregation: Annotated[Aggregation, Key("from components to one value a patch", only=PSM)] = (
        Aggregation.weighted
    )
    sigma: Annotated[
        float,
        Key("of the Gaussian on the patch grid; 0: none", "patches", least=0, most=1000, only=PSM),
    ] = 1.0
    temporal_sigma: Annotated[
        float,
        Key("of the Gaussian over time; 0: none", "latent frames", least=0, most=1000, only=PSM),
    ] = 0.3
    map_norm: Annotated[MapNorm, Key("mean1: mean 1 over the free positions", only=PSM)] = MapNorm.minmax
    apply_to: Annotated[
        ApplyTo,
        Key("reward: z-scores of map times reward at each position (the paper's ablation)", only=PSM),
    ] = ApplyTo.advantage
    on_map_error: Annotated[
        OnMapError,
        Key("for a sample whose features are not finite; uniform: a map of ones", only=PSM),
    ] = OnMapError["raise"]
