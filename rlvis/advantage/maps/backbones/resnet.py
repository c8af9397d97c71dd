"""ResNets: the feature map of their last stage."""

from __future__ import annotations

from typing import ClassVar

from rlvis.advantage.maps.backbone import Layout
from rlvis.advantage.maps.pretrained import Pretrained


class Resnet(Pretrained):
    """A feature map at a 32nd of the frame, or a 64th."""

    usual = "microsoft/resnet-50"
    classes: ClassVar = {"resnet": "ResNetModel"}

    def layout(self) -> Layout:
        """What the stages leave of a pixel."""
        return Layout(64 if self.module.config.downsample_in_first_stage else 32)


ENTRY = Resnet
