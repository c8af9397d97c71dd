"""One training step, in five stages.

    PromptBatch --rollout--> Trajectories --score--> Rewards --weigh--> Trust --build--> Advantages
    --update--> PolicyUpdate

This is the one file that names all five. Heavy records stay on the rank that made them; `score` is the only
barrier and moves scalars. After it every rank computes trust and advantages alike, in float64 on the CPU
(advantage.map.apply_to=reward joins the maps first). Rollout and scoring go shard by shard (sampling.py), and
each stage runs alone as well (single_stage.py).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rlvis.advantage import stage as advantage_stage
from rlvis.records import (
    Advantages,
    PolicyUpdate,
    PriorState,
    PromptBatch,
    RewardHistory,
    Rewards,
    StepRecords,
    Trajectories,
    Trust,
)
from rlvis.reward.contract import Term
from rlvis.reward.gather import gather
from rlvis.reward.stage import LocalScores
from rlvis.runtime import dist
from rlvis.runtime.clock import Clock
from rlvis.runtime.dist import World
from rlvis.runtime.learning_rate import learning_rate
from rlvis.schema import Config
from rlvis.training.parts import BrokenStepError, Hooks, Lookup, Memory, Parts
from rlvis.training.refill import refill
from rlvis.training.rollout_batch import RolloutBatch
from rlvis.training.sampling import draw_prompts, local_shards, sample_shards, split_rows
from rlvis.trust import stage as trust_stage
from rlvis.update import stage as update_stage
from rlvis.update.stage import NonFiniteLossError, UpdateSettings

NO_HOOKS = Hooks()
Step = tuple[Memory, StepRecords]  # memory after a step, and its records


def train_step(parts: Parts, memory: Memory, step: int, hooks: Hooks = NO_HOOKS) -> Step:
    """Take training step `step`, from 0.

    Raises BrokenStepError where a sample, the loss or its gradient is not finite, before the optimizer steps.
    """
    config, clock = parts.config, Clock()
    prompts, truncated = draw_prompts(parts, step)
    batch = rollout(parts, prompts, step, clock, hooks)
    with clock.stage("score"):
        rewards = score(config, parts.terms, prompts, batch.trajectories, [batch.scores])
    batch, rewards, refilled = _refill(parts, prompts, batch, rewards, step, clock, hooks)
    with clock.stage("weigh"):
        trust, prior = weigh(config, prompts, rewards, memory.prior, parts.reference)
    with clock.stage("build"):
        maps = None if batch.maps is None else batch.maps.map
        advantages, history = build(config, prompts, rewards, trust, memory.history, maps, parts.world)
    with clock.stage("update"):
        result = update(parts, prompts, batch.trajectories, advantages)
    records = StepRecords(
        prompts=prompts,
        trajectories=batch.trajectories,
        rewards=rewards,
        trust=trust,
        advantages=advantages,
        update=result,
        truncated=truncated,
        map=maps,
        failed_maps=batch.failed_maps,
        thumbnails=batch.thumbnails,
        refilled=refilled,
        seconds=clock.seconds,
        peak=clock.peak,
    )
    return replace(memory, prior=prior, history=history), records


def rollout(parts: Parts, prompts: PromptBatch, step: int, clock: Clock, hooks: Hooks) -> RolloutBatch:
    """Stage 1: this rank's samples of the step, each shard handed to the scorers as soon as it is there."""
    return sample_shards(parts, prompts, local_shards(parts), step, clock, hooks)


def score(
    config: Config,
    terms: list[Term],
    prompts: PromptBatch,
    trajectories: Trajectories,
    scores: list[LocalScores],
) -> Rewards:
    """Stage 2, the barrier: every rank's scores of its rows as Rewards [P, K, R] on all."""
    size = config.data.samples_per_prompt
    where = trajectories.prompt, trajectories.sample
    return gather(scores, *where, terms, prompts.rows, size, dist.all_gather_rows)


def weigh(
    config: Config, prompts: PromptBatch, rewards: Rewards, prior: PriorState, lookup: Lookup | None = None
) -> tuple[Trust, PriorState]:
    """Stage 3. lookup: scores of other samples of the same prompts, for priors that read them."""
    reference = None if lookup is None else lookup(prompts, prior)
    combine = config.advantage.combine
    return trust_stage.weigh(rewards, prior, config.trust, config.prior, combine, prompts, reference)


def build(
    config: Config,
    prompts: PromptBatch,
    rewards: Rewards,
    trust: Trust,
    history: RewardHistory,
    maps: Tensor | None = None,
    world: World | None = None,
) -> tuple[Advantages, RewardHistory]:
    """Stage 4; maps [N, F, H, W]: of the rows that this rank of `world` owns. A barrier with apply_to=reward:
    groups straddle ranks, so every rank needs the others' maps.
    """
    return advantage_stage.build(
        rewards,
        trust,
        config.advantage,
        prompts.index,
        history,
        contrast_coef=config.trust.crt.weight,
        weigh_contrast=config.trust.ras.weight_crt,
        map=maps,
        rows=None if world is None else world.rows(rewards.valid.numel()),
        gather=dist.all_gather_rows,
    )


def update(
    parts: Parts, prompts: PromptBatch, trajectories: Trajectories, advantages: Advantages
) -> PolicyUpdate:
    """Stage 5. Raises BrokenStepError, with what `stage=update` replays, where the loss is not finite."""
    config, ema, engine = parts.config, parts.ema, parts.engine

    def after_step() -> None:
        if ema is not None:
            ema.update(engine.masters())

    settings = UpdateSettings(config.advantage, config.sampler, config.train)
    engine.set_learning_rate(learning_rate(config.optim, config.train.steps, trajectories.policy_step))
    arguments = parts.policy, engine, prompts, trajectories, advantages, settings, parts.world
    try:
        return update_stage.update(*arguments, after_step=after_step)
    except NonFiniteLossError as error:
        raise BrokenStepError(str(error), error.where, prompts, trajectories, advantages) from error


def _refill(
    parts: Parts,
    prompts: PromptBatch,
    batch: RolloutBatch,
    rewards: Rewards,
    step: int,
    clock: Clock,
    hooks: Hooks,
) -> tuple[RolloutBatch, Rewards, int]:
    """Fresh samples in place of invalid ones (reward.refill rounds), and how many were drawn on all ranks."""
    config = parts.config
    if not config.reward.refill or bool(rewards.valid.all()):
        return batch, rewards, 0
    again = Hooks(advance=hooks.advance, keep_thumbnails=hooks.keep_thumbnails)

    def sample(rows: list[int], most: int, number: int) -> RolloutBatch:
        return sample_shards(parts, prompts, split_rows(config, rows, most), step, clock, again, number)

    def rescore(fresh: RolloutBatch) -> Rewards:
        return score(config, parts.terms, prompts, fresh.trajectories, [fresh.scores])

    with clock.stage("refill"):
        return refill(batch, rewards, config.reward.refill, parts.world, sample, rescore)
