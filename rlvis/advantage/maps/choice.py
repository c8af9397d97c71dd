"""The backbone that a configuration means by advantage.map.backbone=auto."""

from __future__ import annotations

from dataclasses import replace

from rlvis.schema import Config, MapConfig
from rlvis.schema.maps import AUTO

EMBEDDED = "asset:"  # what the policies of rlvis are called by


def chosen(config: Config) -> MapConfig:
    """advantage.map with its backbone named.

    auto: for an embedded policy the embedded one, which was trained on such pictures; ViPO's DINOv2 for all
    others, and wherever a backbone_path is set.
    """
    map_ = config.advantage.map
    if map_.backbone != AUTO:
        return map_
    embedded = config.model.path.startswith(EMBEDDED) and map_.backbone_path is None
    return replace(map_, backbone="tiny" if embedded else "dinov2")
