"""The image encoder of SigLIP."""

from __future__ import annotations

from typing import ClassVar

from rlvis.advantage.maps.pretrained import Pretrained


class Siglip(Pretrained):
    """Patches without a class token; its position embeddings are interpolated when asked."""

    usual = "google/siglip-base-patch16-224"
    usual_patch = 16
    classes: ClassVar = {"siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel"}
    more: ClassVar = {"interpolate_pos_encoding": True}


ENTRY = Siglip
