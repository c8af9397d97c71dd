"""One stage alone, on what another saved: `stage=rollout|score|weigh|build|update records=DIR`.

The five in a row end in the same weights as one whole step. Every stage goes through all steps that DIR holds
(rollout writes `train.steps` of them, all by the same weights). Only rollout and update load the policy.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.records import PriorState, PromptBatch, RewardHistory, Rewards, Trust
from rlvis.reward import scorer
from rlvis.runs import archive
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import Config, Stage
from rlvis.training import pipeline, reference, sampling
from rlvis.training.assemble import build_map
from rlvis.training.parts import Parts

log = logging.getLogger(__name__)


def rollout_only(parts: Parts, root: Path) -> None:
    """Write prompts and trajectories (with media) of `train.steps` steps."""
    for step in range(parts.config.train.steps):
        folder = archive.step_folder(root, step)
        prompts, _ = sampling.draw_prompts(parts, step)
        shards = sampling.local_shards(parts)
        pieces = [sampling.rollout_shard(parts, prompts, shard, step) for shard in shards]
        if parts.world.is_main:
            prompts.save(folder / "prompts")
        dist.barrier()
        archive.save_local(type(pieces[0]).concatenate(pieces), folder, "trajectories", parts.world)
        log.info("rollout of step %d: %s", step, folder)
    dist.barrier()


def update_only(parts: Parts, root: Path) -> int:
    """Apply the saved advantages of every step, in order; return how many steps that were."""
    data = parts.config.data
    steps = archive.steps(root)
    for step in steps:
        folder = archive.step_folder(root, step)
        prompts = PromptBatch.load(folder / "prompts")
        total = prompts.rows * data.samples_per_prompt
        trajectories = archive.load_trajectories(folder, parts.world, total, data.samples_per_prompt)
        advantages = archive.load_advantages(folder, parts.world, total)
        result = pipeline.update(parts, prompts, trajectories, advantages)
        if parts.world.is_main:
            result.save(folder / "update")
        log.info("update of step %d: %s", step, result.metrics)
    return len(steps)


def without_policy(config: Config, world: World, root: Path) -> None:
    """Run score, weigh or build on every step below `root`."""
    prior, history = PriorState(kind=config.prior.kind), RewardHistory()
    psm = build_map(config, world) if config.stage is Stage.build else None
    lookup = None
    if config.stage is Stage.weigh:
        lookup = reference.saved_lookup(config, world, lambda: scorer.build(config.reward))
    for step in archive.steps(root):
        folder = archive.step_folder(root, step)
        if config.stage is Stage.score:
            score_step(config, world, folder)
        elif config.stage is Stage.weigh:
            rewards = Rewards.load(folder / "rewards")
            prompts = PromptBatch.load(folder / "prompts")
            trust, prior = pipeline.weigh(config, prompts, rewards, prior, lookup)
            if world.is_main:
                trust.save(folder / "trust")
                prior.save(folder / "prior")
        else:
            assert config.stage is Stage.build, f"{config.stage} needs the policy"
            rewards, trust = Rewards.load(folder / "rewards"), Trust.load(folder / "trust")
            prompts = PromptBatch.load(folder / "prompts")
            maps = None if psm is None else saved_maps(config, psm, world, folder, prompts.rows)
            advantages, history = pipeline.build(config, prompts, rewards, trust, history, maps, world)
            archive.save_advantages(advantages, folder, world)
            if world.is_main:
                history.save(folder / "history")
        log.info("%s of step %d: %s", config.stage, step, folder)
    dist.barrier()


def saved_maps(config: Config, psm: PerceptualMap, world: World, folder: Path, prompts: int) -> Tensor:
    """Maps [N, F, H, W] of this rank's rows: from the saved media, or those saved with an earlier step's
    advantages where a whole run has freed the media.

    Raises:
        ValueError: neither media nor maps were saved.
    """
    size = config.data.samples_per_prompt
    trajectories = archive.load_trajectories(folder, world, prompts * size, size)
    if trajectories.media is None and list(folder.glob("advantages.*of*.json")):
        kept = archive.load_advantages(folder, world, prompts * size).map
        if kept is not None:
            log.warning(
                "%s has no media: taking its saved maps as they are, whatever advantage.map says", folder
            )
            return kept
    maps = sampling.map_shard(psm, trajectories)
    if failed := int(maps.failed.sum()):
        log.warning("%s: %d samples have a map of ones, their features are not finite", folder, failed)
    return maps.map


def score_step(config: Config, world: World, folder: Path) -> None:
    """Score the saved media of one step and write rewards.

    Raises:
        ValueError: the trajectories were saved without media.
    """
    terms = scorer.build(config.reward)
    prompts = PromptBatch.load(folder / "prompts")
    size = config.data.samples_per_prompt
    trajectories = archive.load_trajectories(folder, world, prompts.rows * size, size)
    scores = sampling.score_shard(config, terms, prompts, trajectories)
    rewards = pipeline.score(config, terms, prompts, trajectories, [scores])
    if world.is_main:
        rewards.save(folder / "rewards")
    dist.barrier()
