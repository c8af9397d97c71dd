"""One stage alone, on what another saved: `stage=rollout|score|weigh|build|update records=DIR`.

The five in a row end in the same weights as one whole step. Every stage goes through all steps that DIR holds
(rollout writes `train.steps` of them, all by the same weights). Only rollout and update load the policy.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rlvis.records import Advantages, PriorState, PromptBatch, RewardHistory, Rewards, Trust
from rlvis.reward import scorer
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import Config, Stage
from rlvis.training import archive, pipeline
from rlvis.training.pipeline import Parts

log = logging.getLogger(__name__)


def rollout_only(parts: Parts, root: Path) -> None:
    """Write prompts and trajectories (with media) of `train.steps` steps."""
    for step in range(parts.config.train.steps):
        folder = archive.step_folder(root, step)
        prompts, _ = pipeline.draw(parts, step)
        pieces = [pipeline.roll(parts, prompts, shard, step) for shard in pipeline.shards(parts)]
        if parts.world.leads:
            prompts.save(folder / "prompts")
        dist.barrier()
        archive.save_local(type(pieces[0]).concatenate(pieces), folder, "trajectories", parts.world)
        log.info("rollout of step %d: %s", step, folder)
    dist.barrier()


def update_only(parts: Parts, root: Path) -> int:
    """Apply the saved advantages of every step, in order; return how many steps that were."""
    data = parts.config.data
    found = archive.steps(root)
    for step in found:
        folder = archive.step_folder(root, step)
        prompts = PromptBatch.load(folder / "prompts")
        total = prompts.rows * data.samples_per_prompt
        trajectories = archive.load_trajectories(folder, parts.world, total, data.samples_per_prompt)
        advantages = Advantages.load(folder / "advantages")
        result = pipeline.improve(parts, prompts, trajectories, advantages)
        if parts.world.leads:
            result.save(folder / "update")
        log.info("update of step %d: %s", step, result.metrics)
    return len(found)


def without_policy(config: Config, world: World, root: Path) -> None:
    """Run score, weigh or build on every step below `root`."""
    prior, history = PriorState(kind=config.prior.kind.value), RewardHistory()
    for step in archive.steps(root):
        folder = archive.step_folder(root, step)
        if config.stage is Stage.score:
            score_saved(config, world, folder)
        elif config.stage is Stage.weigh:
            rewards = Rewards.load(folder / "rewards")
            prompts = PromptBatch.load(folder / "prompts")
            trust, prior = pipeline.trusted(config, prompts, rewards, prior)
            if world.leads:
                trust.save(folder / "trust")
                prior.save(folder / "prior")
        else:
            assert config.stage is Stage.build, f"{config.stage} needs the policy"
            rewards, trust = Rewards.load(folder / "rewards"), Trust.load(folder / "trust")
            prompts = PromptBatch.load(folder / "prompts")
            advantages, history = pipeline.built(config, prompts, rewards, trust, history)
            if world.leads:
                advantages.save(folder / "advantages")
                history.save(folder / "history")
        log.info("%s of step %d: %s", config.stage.value, step, folder)
    dist.barrier()


def score_saved(config: Config, world: World, folder: Path) -> None:
    """Score the saved media of one step and write rewards.

    Raises:
        ValueError: the trajectories were saved without media.
    """
    terms = scorer.build(config.reward)
    prompts = PromptBatch.load(folder / "prompts")
    size = config.data.samples_per_prompt
    trajectories = archive.load_trajectories(folder, world, prompts.rows * size, size)
    scores = pipeline.judge(config, terms, prompts, trajectories)
    rewards = pipeline.collect(config, terms, prompts, trajectories, [scores])
    if world.leads:
        rewards.save(folder / "rewards")
    dist.barrier()
