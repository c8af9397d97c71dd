"""The image encoder of SAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from rlvis.advantage.maps.backbone import Layout
from rlvis.advantage.maps.pretrained import Pretrained


class Sam(Pretrained):
    """A feature map of frames at the one size that it was trained on."""

    usual = "facebook/sam-vit-large"
    classes: ClassVar = {"sam": "SamVisionModel", "sam_vision_model": "SamVisionModel"}

    def layout(self) -> Layout:
        """Its position embeddings cannot be interpolated."""
        config = self.module.config
        return Layout(int(config.patch_size), 0, (config.image_size, config.image_size))

    def as_tokens(self, hidden: Tensor) -> Tensor:
        """Its layers have their channels last."""
        return hidden.movedim(-1, 1)

    @classmethod
    def patch_in(cls, read: Mapping[str, Any], layer: int | None) -> int | None:
        """Frames have one size."""
        return None


ENTRY = Sam
