"""What must hold between the keys of `advantage.map` and the rest, checked before anything loads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    Aggregation,
    ApplyTo,
    Combine,
    Config,
    MapBackbone,
    MapConfig,
    MapNorm,
    MapSource,
    RatioScope,
    StdScope,
)


def map_mistakes(config: Config) -> Iterator[str]:
    """Contradictions around maps, one message each."""
    yield from _values(config.advantage.map)
    if config.advantage.map.source is MapSource.none:
        yield from _without(config.advantage)
    else:
        on_reward = config.advantage.map.apply_to is ApplyTo.reward
        yield from (_on_reward if on_reward else _scope)(config.advantage)
        yield from _idle(config)


def _without(advantage: AdvantageConfig) -> Iterator[str]:
    if advantage.ratio_scope is RatioScope.pooled:
        yield (
            "advantage.ratio_scope=pooled weights positions by a map, but advantage.map.source=none; "
            "type advantage.map.source=psm advantage.map.map_norm=mean1, or advantage.ratio_scope=sample"
        )
    default = MapConfig()
    # The reduction of the log-prob counts without a map as well.
    for field in fields(MapConfig):
        value, usual = getattr(advantage.map, field.name), getattr(default, field.name)
        if field.name not in ("source", "channel_reduction") and value != usual:
            name = f"advantage.map.{field.name}"
            yield f"{name}={_text(value)} does nothing with advantage.map.source=none; type advantage=vipo"


def _scope(advantage: AdvantageConfig) -> Iterator[str]:
    area, scope = advantage.map, advantage.ratio_scope
    if scope is RatioScope.pooled and area.map_norm is not MapNorm.mean1:
        yield (
            f"advantage.ratio_scope=pooled with advantage.map.map_norm={area.map_norm.value}: the "
            "ratio would shrink "
            "with the map's mean; type advantage.map.map_norm=mean1"
        )
    if scope is RatioScope.sample:
        effect = (
            "do nothing at all"
            if area.map_norm is MapNorm.mean1
            else "only scale each sample's loss by its map's mean"
        )
        yield (
            f"advantage.ratio_scope=sample has one ratio a sample, so a map would {effect}; "
            "type advantage.ratio_scope=position, or advantage.map.source=none"
        )


def _on_reward(advantage: AdvantageConfig) -> Iterator[str]:
    """What z-scores at each position of a group cannot go with."""
    this = "advantage.map.apply_to=reward"
    if advantage.ratio_scope is not RatioScope.position:
        yield (
            f"{this} makes an advantage at each position, but advantage.ratio_scope="
            f"{advantage.ratio_scope.value} has one ratio a sample; type advantage.ratio_scope=position, or "
            "advantage.map.apply_to=advantage"
        )
    if advantage.preset not in (AdvantagePreset.dance, AdvantagePreset.flow_grpo):
        yield (
            f"{this} compares the samples of a group at each position by the rule of dance or flow_grpo, got "
            f"advantage.preset={advantage.preset.value}; type advantage.preset=flow_grpo, or "
            "advantage.map.apply_to=advantage"
        )
    if advantage.std_scope is StdScope.batch:
        yield (
            f"{this} with advantage.std_scope=batch: positions of different groups have nothing to do with "
            "each other, so the standard deviation is the group's; type advantage.std_scope=null, or "
            "advantage.map.apply_to=advantage"
        )
    if advantage.combine is Combine.gdpo:
        yield (
            f"{this} with advantage.combine=gdpo, which normalises sums of scalar advantages over the batch; "
            "type advantage.combine=weighted_sum, or advantage.map.apply_to=advantage"
        )


def _idle(config: Config) -> Iterator[str]:
    area = config.advantage.map
    if (
        area.backbone is MapBackbone.tiny
        and area.backbone_revision is not None
        and area.backbone_path is None
    ):
        yield (
            f"advantage.map.backbone_revision={area.backbone_revision} does nothing with "
            "advantage.map.backbone=tiny, "
            "which comes with rlvis; type advantage.map.backbone_revision=null"
        )
    if area.aggregation is Aggregation.first_pc and area.components != MapConfig().components:
        yield (
            f"advantage.map.components={area.components} does nothing with "
            "advantage.map.aggregation=first_pc; "
            f"type advantage.map.components={MapConfig().components}"
        )


def _values(area: MapConfig) -> Iterator[str]:
    for key, value in (("batch", area.batch), ("components", area.components)):
        if value < 1:
            usual = getattr(MapConfig(), key)
            yield f"advantage.map.{key}={value}: wanted at least 1; type advantage.map.{key}={usual}"
    for key, width in (("sigma", area.sigma), ("temporal_sigma", area.temporal_sigma)):
        if not 0 <= width < math.inf:
            yield (
                f"advantage.map.{key}={width}: wanted 0 (no smoothing) or a positive number; "
                f"type advantage.map.{key}={getattr(MapConfig(), key)}"
            )


def _text(value: object) -> str:
    return str(getattr(value, "value", value))
