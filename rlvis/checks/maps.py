"""What must hold between the keys of `advantage.map` and the rest, checked before anything loads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

from rlvis.findings import Finding, mistake
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


def map_errors(config: Config) -> Iterator[Finding]:
    """Contradictions around maps."""
    yield from _values(config.advantage.map)
    if config.advantage.map.source is MapSource.none:
        yield from _without(config.advantage)
    else:
        on_reward = config.advantage.map.apply_to is ApplyTo.reward
        yield from (_on_reward if on_reward else _scope)(config.advantage)
        yield from _idle(config)


def _without(advantage: AdvantageConfig) -> Iterator[Finding]:
    if advantage.ratio_scope is RatioScope.pooled:
        yield mistake(
            "advantage.ratio_scope=pooled weights positions by a map, but advantage.map.source=none",
            "advantage.map.source=psm advantage.map.map_norm=mean1, or advantage.ratio_scope=sample",
        )
    default = MapConfig()
    # The reduction of the log-prob counts without a map as well.
    for field in fields(MapConfig):
        value, usual = getattr(advantage.map, field.name), getattr(default, field.name)
        if field.name not in ("source", "channel_reduction") and value != usual:
            name = f"advantage.map.{field.name}"
            yield mistake(
                f"{name}={_text(value)} does nothing with advantage.map.source=none", "advantage=vipo"
            )


def _scope(advantage: AdvantageConfig) -> Iterator[Finding]:
    map_, scope = advantage.map, advantage.ratio_scope
    if scope is RatioScope.pooled and map_.map_norm is not MapNorm.mean1:
        yield mistake(
            f"advantage.ratio_scope=pooled with advantage.map.map_norm={map_.map_norm.value}: the ratio "
            "would shrink with the map's mean",
            "advantage.map.map_norm=mean1",
        )
    if scope is RatioScope.sample:
        effect = (
            "do nothing at all"
            if map_.map_norm is MapNorm.mean1
            else "only scale each sample's loss by its map's mean"
        )
        yield mistake(
            f"advantage.ratio_scope=sample has one ratio a sample, so a map would {effect}",
            "advantage.ratio_scope=position, or advantage.map.source=none",
        )


def _on_reward(advantage: AdvantageConfig) -> Iterator[Finding]:
    """What z-scores at each position of a group cannot go with."""
    this = "advantage.map.apply_to=reward"
    if advantage.ratio_scope is not RatioScope.position:
        yield mistake(
            f"{this} makes an advantage at each position, but "
            f"advantage.ratio_scope={advantage.ratio_scope.value} has one ratio a sample",
            "advantage.ratio_scope=position, or advantage.map.apply_to=advantage",
        )
    if advantage.preset not in (AdvantagePreset.dance, AdvantagePreset.flow_grpo):
        yield mistake(
            f"{this} compares the samples of a group at each position by the rule of dance or flow_grpo, got "
            f"advantage.preset={advantage.preset.value}",
            "advantage.preset=flow_grpo, or advantage.map.apply_to=advantage",
        )
    if advantage.std_scope is StdScope.batch:
        yield mistake(
            f"{this} with advantage.std_scope=batch: positions of different groups have nothing to do with "
            "each other, so the standard deviation is the group's",
            "advantage.std_scope=null, or advantage.map.apply_to=advantage",
        )
    if advantage.combine is Combine.gdpo:
        yield mistake(
            f"{this} with advantage.combine=gdpo, which normalises sums of scalar advantages over the batch",
            "advantage.combine=weighted_sum, or advantage.map.apply_to=advantage",
        )


def _idle(config: Config) -> Iterator[Finding]:
    map_ = config.advantage.map
    if (
        map_.backbone is MapBackbone.tiny
        and map_.backbone_revision is not None
        and map_.backbone_path is None
    ):
        yield mistake(
            f"advantage.map.backbone_revision={map_.backbone_revision} does nothing with "
            "advantage.map.backbone=tiny, which comes with rlvis",
            "advantage.map.backbone_revision=null",
        )
    if map_.aggregation is Aggregation.first_pc and map_.components != MapConfig().components:
        yield mistake(
            f"advantage.map.components={map_.components} does nothing with "
            "advantage.map.aggregation=first_pc",
            f"advantage.map.components={MapConfig().components}",
        )


def _values(map_: MapConfig) -> Iterator[Finding]:
    for key, value in (("batch", map_.batch), ("components", map_.components)):
        if value < 1:
            usual = getattr(MapConfig(), key)
            yield mistake(f"advantage.map.{key}={value}: wanted at least 1", f"advantage.map.{key}={usual}")
    for key, width in (("sigma", map_.sigma), ("temporal_sigma", map_.temporal_sigma)):
        if not 0 <= width < math.inf:
            yield mistake(
                f"advantage.map.{key}={width}: wanted 0 (no smoothing) or a positive number",
                f"advantage.map.{key}={getattr(MapConfig(), key)}",
            )


def _text(value: object) -> str:
    return str(getattr(value, "value", value))
