"""ViPO's perceptual map over a sample's positions (arXiv 2511.18719)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlvis.schema.common import Dtype, Reduction


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
    aggregation: Aggregation = Aggregation.weighted
    sigma: float = 1.0  # Gaussian on the patch grid, in patches; 0: none
    temporal_sigma: float = 0.3  # Gaussian over latent frames; 0: none
    map_norm: MapNorm = MapNorm.minmax  # mean1: mean 1 over the free positions
    apply_to: ApplyTo = ApplyTo.advantage  # reward: z-scores of map times reward at each position (ablation)
    on_map_error: OnMapError = OnMapError["raise"]  # uniform: ones for a sample whose features are not finite
