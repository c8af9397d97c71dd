"""Any vision model of transformers whose last hidden state is a grid of tokens or a feature map."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from rlvis.advantage.maps.backbone import Layout, needs_path
from rlvis.advantage.maps.measure import measured
from rlvis.advantage.maps.pretrained import Pretrained
from rlvis.findings import ConfigError, mistake
from rlvis.schema import MapConfig

USUAL_SIDE = 224  # pixels, where the configuration says nothing


class AnyTransformer(Pretrained):
    """The vision part of advantage.map.backbone_path: a ViT, CLIP, ConvNeXt, ... How its tokens lie is
    measured on two blank frames; the patch is that of its configuration.
    """

    def layout(self) -> Layout:
        """Raises ConfigError for a model that makes no grid."""
        config, weight = self.module.config, next(self.module.parameters())
        patch, side = _side(getattr(config, "patch_size", None)), _side(getattr(config, "image_size", None))

        def blank(height: int, width: int) -> Tensor:
            with torch.no_grad():
                return self.hidden(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype))

        try:
            return measured(blank, side or USUAL_SIDE, patch)
        except Exception as error:  # whatever a model says to pixels
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ConfigError(
                mistake(
                    f"{self.name} is a {config.model_type}, which gives no grid of tokens for a frame "
                    f"({reason})",
                    "advantage.map.backbone_path=OTHER, or advantage.map.backbone=MODULE.CLASS of your own",
                )
            ) from error

    def hidden(self, pixels: Tensor) -> Tensor:
        """Of a layer, position embeddings interpolated where the model can."""
        taken = inspect.signature(self.module.forward).parameters
        return self.read(
            pixels, {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in taken else {}
        )

    @classmethod
    def patch_ahead(cls, config: MapConfig) -> int | None:
        """Unknown: only its answers tell."""
        return None

    @classmethod
    def opener(cls, read: Any, config: MapConfig) -> tuple[Any, dict[str, Any]]:
        """The vision part alone, where the model has others."""
        import transformers

        return transformers.AutoModel, {"config": getattr(read, "vision_config", read)}

    @classmethod
    def repository(cls, config: MapConfig) -> tuple[str, str]:
        """Raises ConfigError where none is named."""
        if config.backbone_path is None:
            raise needs_path(config, "google/vit-base-patch16-224")
        return super().repository(config)

    @classmethod
    def reads(cls, weight: str) -> bool:
        """Checkpoints with a head often lack the pooler, which comes after the tokens."""
        return "pooler." not in weight


def _side(value: Any) -> int | None:
    """One side of a square that a configuration states as a number or a pair; None for anything else."""
    pair = [value, value] if isinstance(value, int) else list(value or ())
    return int(pair[0]) if len(pair) == 2 and pair[0] == pair[1] else None


ENTRY = AnyTransformer
