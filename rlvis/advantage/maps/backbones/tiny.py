"""A tiny DINOv2 that comes with rlvis, for tests and demos; it was trained on the shapes world."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rlvis.advantage.maps.backbones.dinov2 import Dinov2


class Tiny(Dinov2):
    """As DINOv2."""

    usual = str(Path(__file__).resolve().parents[3] / "assets" / "tiny_backbone")
    classes: ClassVar = {"dinov2": "Dinov2Model"}


ENTRY = Tiny
