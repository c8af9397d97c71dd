"""DINOv3's vision transformers."""

from __future__ import annotations

from typing import ClassVar

from rlvis.advantage.maps.backbones.dinov2 import Dinov2


class Dinov3(Dinov2):
    """As DINOv2."""

    usual = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    usual_patch = 16
    classes: ClassVar = {"dinov3_vit": "DINOv3ViTModel"}


ENTRY = Dinov3
