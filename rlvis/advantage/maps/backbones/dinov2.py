"""DINOv2, with and without registers; its large size is ViPO's choice."""

from __future__ import annotations

from typing import ClassVar

from rlvis.advantage.maps.backbone import Layout
from rlvis.advantage.maps.pretrained import Pretrained


class Dinov2(Pretrained):
    """Patches after a class token and registers, at any size."""

    usual = "facebook/dinov2-large"
    usual_patch = 14
    classes: ClassVar = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}

    def layout(self) -> Layout:
        """The class token and the registers come first."""
        config = self.module.config
        return Layout(int(config.patch_size), 1 + getattr(config, "num_register_tokens", 0))


ENTRY = Dinov2
