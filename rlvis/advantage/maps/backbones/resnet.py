"""ResNets: the feature map of their last stage, or of the one that advantage.map.layer names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rlvis.advantage.maps.backbone import Layout
from rlvis.advantage.maps.pretrained import Pretrained


class Resnet(Pretrained):
    """A feature map at a 32nd of the frame, or a 64th; each stage before the last has twice as many cells a
    side.
    """

    usual = "microsoft/resnet-50"
    usual_patch = 32
    classes: ClassVar = {"resnet": "ResNetModel"}

    def layout(self) -> Layout:
        """What the stages leave of a pixel."""
        return Layout(_stride(self.module.config.to_dict(), self.layer))

    @classmethod
    def patch_in(cls, read: Mapping[str, Any], layer: int | None) -> int | None:
        """The same of the content of config.json."""
        return _stride(read, layer)


def _stride(read: Mapping[str, Any], layer: int | None) -> int:
    """Pixels a cell after stage `layer`; 0: after the stem; None: after the last."""
    stage = len(read.get("depths", [3, 4, 6, 3])) if layer is None else layer
    halved = stage - (not read.get("downsample_in_first_stage", False))
    return int(4 * 2 ** max(0, halved))


ENTRY = Resnet
