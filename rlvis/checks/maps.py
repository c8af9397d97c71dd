"""What must hold between the keys of `advantage.map` and the rest, checked before anything loads."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    Aggregation,
    ApplyTo,
    Combine,
    Config,
    MapConfig,
    MapNorm,
    MapSource,
    RatioScope,
    StdScope,
)
from rlvis.schema.key import text


def map_errors(config: Config) -> Iterator[Finding]:
    """Contradictions around maps."""
    advantage = config.advantage
    if advantage.map.source is MapSource.none:
        yield from _without(advantage)
        return
    on_reward = advantage.map.apply_to is ApplyTo.reward
    yield from (_on_reward if on_reward else _scope)(advantage)
    yield from _backbone(config)
    many, usual = advantage.map.components, MapConfig().components
    if advantage.map.aggregation is Aggregation.first_pc and many != usual:
        yield mistake(
            f"advantage.map.components={many} does nothing with advantage.map.aggregation=first_pc",
            f"advantage.map.components={usual}",
        )


def _without(advantage: AdvantageConfig) -> Iterator[Finding]:
    if advantage.ratio_scope is RatioScope.pooled:
        yield mistake(
            "advantage.ratio_scope=pooled weights positions by a map, but advantage.map.source=none",
            "advantage.map.source=psm advantage.map.map_norm=mean1, or advantage.ratio_scope=sample",
        )


def _scope(advantage: AdvantageConfig) -> Iterator[Finding]:
    map_, scope = advantage.map, advantage.ratio_scope
    if scope is RatioScope.pooled and map_.map_norm is not MapNorm.mean1:
        yield mistake(
            f"advantage.ratio_scope=pooled with advantage.map.map_norm={map_.map_norm}: the ratio "
            "would shrink with the map's mean",
            "advantage.map.map_norm=mean1",
        )
    if advantage.guard is not None:
        yield mistake(
            "advantage.guard makes a ratio of its own, whose gradient no map leads",
            "advantage.guard=null, or advantage.map.source=none",
        )


def _on_reward(advantage: AdvantageConfig) -> Iterator[Finding]:
    """What z-scores at each position of a group cannot go with."""
    this = "advantage.map.apply_to=reward"
    if advantage.ratio_scope is not RatioScope.position:
        yield mistake(
            f"{this} makes an advantage at each position, but "
            f"advantage.ratio_scope={advantage.ratio_scope} has one ratio a sample",
            "advantage.ratio_scope=position, or advantage.map.apply_to=advantage",
        )
    if advantage.preset not in (AdvantagePreset.dance, AdvantagePreset.flow_grpo):
        yield mistake(
            f"{this} compares the samples of a group at each position by the rule of dance or flow_grpo, got "
            f"advantage.preset={advantage.preset}",
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


def _backbone(config: Config) -> Iterator[Finding]:
    """Whether there is such a backbone, reads what is set, and gets frames that are large enough for it."""
    from rlvis.advantage.maps import backbone, choice, grid, opening

    map_ = choice.chosen(config)
    key, usual = f"advantage.map.backbone={map_.backbone}", MapConfig()
    try:
        where = backbone.wanted(map_)[1]
        if backbone.is_own(map_):
            opening.own_class(map_)
    except ConfigError as error:
        yield from error.findings
        return
    unread = ["backbone_kwargs"]
    if backbone.is_own(map_):
        unread = ["backbone_path", "backbone_revision", "backbone_dtype", "layer"]
    for name in unread:
        value, default = getattr(map_, name), getattr(usual, name)
        if value != default:
            yield mistake(
                f"advantage.map.{name}={text(value)} does nothing with {key}",
                f"advantage.map.{name}={text(default)}",
            )
    if map_.backbone_revision is not None and where.startswith((".", "/", "~")):
        yield mistake(
            f"advantage.map.backbone_revision={map_.backbone_revision} does nothing with {key}, which is "
            f"read from the folder {where}",
            "advantage.map.backbone_revision=null",
        )
    if (patch := backbone.patch_ahead(map_)) is not None:
        height, width = config.model.height, config.model.width
        if wrong := grid.too_small(height, width, patch, map_.enlarge, f"the backbone {map_.backbone}"):
            yield wrong
