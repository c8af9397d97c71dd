"""One training step, in five stages.

    PromptBatch --rollout--> Trajectories --score--> Rewards --weigh--> Trust --build--> Advantages
    --update--> PolicyUpdate

This is the one file that names all five. Heavy records stay on the rank that made them; `gather` is the only
barrier and moves scalars. After it every rank computes trust and advantages alike, in float64 on the CPU
(advantage.map.apply_to=reward joins the maps first). Rollout and scoring go shard by shard, so that decoded
frames never pile up. Each stage runs alone as well: see `alone.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rlvis.advantage.maps.psm import Allocation, PerceptualMap
from rlvis.advantage.stage import build
from rlvis.data import sampler
from rlvis.observe import extremes
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
from rlvis.reward import execute
from rlvis.reward.contract import Term
from rlvis.reward.stage import LocalScores, gather, score, unasked
from rlvis.rollout import plan as sampling
from rlvis.rollout.stage import NonFiniteStateError, rollout
from rlvis.runtime import dist
from rlvis.runtime.clock import Clock
from rlvis.schema import Config
from rlvis.training import broken
from rlvis.training.parts import BrokenStepError, Memory, Parts
from rlvis.training.refill import Drawn, refill
from rlvis.trust.stage import weigh
from rlvis.update.stage import NonFiniteLossError, UpdateSettings, update

log = logging.getLogger(__name__)


def train_step(
    parts: Parts,
    memory: Memory,
    step: int,
    advance: Callable[[], None] = lambda: None,
    pictures: bool = False,
    watch: Callable[[Trajectories], None] = lambda piece: None,
) -> tuple[Memory]:
    """Sample, score, weigh, build, update.

    Args:
        parts: the run.
        memory: before this step.
        step: training step, from 0.
        advance: called after every forward of the sampler (progress).
        pictures: keep thumbnails of the samples in the records.
        watch: called with each shard of this rank while it holds its media; not with refilled samples.

    Returns:
        Memory after the step, and its records.

    Raises:
        BrokenStepError: a sample, the loss or its gradient was not finite; the optimizer has not stepped.
    """
    clock, config = Clock(), parts.config
    prompts, truncated = draw(parts, step)
    drawn = _sampled(parts, prompts, shards(parts), step, clock, advance, pictures, watch)

    def again(rows: list[int], most: int, number: int) -> Drawn:
        return _sampled(parts, prompts, cut(parts, rows, most), step, clock, advance, pictures, redraw=number)

    def collected(drawn: Drawn) -> Rewards:
        return collect(config, parts.terms, prompts, drawn.trajectories, [drawn.scores])

    with clock.stage("score"):
        rewards = collected(drawn)
    refilled = 0
    if config.reward.refill and not bool(rewards.valid.all()):
        with clock.stage("refill"):
            drawn, rewards, refilled = refill(
                drawn, rewards, config.reward.refill, parts.world, again, collected
            )
    trajectories = drawn.trajectories
    with clock.stage("weigh"):
        other = None if parts.reference is None else parts.reference(prompts, memory.prior)
        trust, prior = trusted(config, prompts, rewards, memory.prior, other)
    with clock.stage("build"):
        area, failed = joined([] if drawn.maps is None else [drawn.maps])
        rows = parts.world.rows(rewards.valid.numel())
        advantages, history = built(config, prompts, rewards, trust, memory.history, area, rows)
    with clock.stage("update"):
        try:
            result = improve(parts, prompts, trajectories, advantages)
        except NonFiniteLossError as error:
            raise BrokenStepError(str(error), error.broken, prompts, trajectories, advantages) from error
    records = StepRecords(
        prompts,
        trajectories,
        rewards,
        trust,
        advantages,
        result,
        truncated,
        dict(clock.seconds),
        dict(clock.peak),
        map=area,
        failed_maps=failed,
        thumbnails=drawn.thumbnails,
        refilled=refilled,
    )
    return replace(memory, prior=prior, history=history), records


def _sampled(
    parts: Parts,
    prompts: PromptBatch,
    pieces: Sequence[Shard],
    step: int,
    clock: Clock,
    advance: Callable[[], None],
    pictures: bool,
    watch: Callable[[Trajectories], None] = lambda piece: None,
    redraw: int = 0,
) -> Drawn:
    """Stages 1 and 2 without their barrier, shard by shard: this rank's rows, scored, freed of their media.

    redraw: the round of a refill, 0 for the samples of the step. Raises BrokenStepError on all ranks.
    """
    config = parts.config
    made, asked, maps, kept = [], [], [], []
    fault: NonFiniteStateError | None = None
    with execute.opened(config.reward.executor) as scoring:
        for shard in pieces:
            try:
                with clock.stage("rollout"):
                    piece = roll(parts, prompts, shard, step, advance, redraw)
            except NonFiniteStateError as error:  # the other ranks go on sampling until all can stop
                if fault is None:
                    fault = error
                else:
                    fault.rows.extend(error.rows)
                continue
            watch(piece)
            with clock.stage("score"):
                asked.append(scoring.submit(partial(judge, config, parts.terms, prompts, piece)))
            if parts.psm is not None:
                # Maps need frames and nothing of the rewards, so the frames of a shard can go.
                with clock.stage("build"), clock.stage("map"):
                    maps.append(allocate(parts.psm, piece))
            if pictures and piece.media is not None:
                kept.append(extremes.thumbnails(piece.media))
            made.append(piece.replace(media=None))
        with clock.stage("score"):
            scores = [job.result() for job in asked]
    clock.add("scorers", scoring.busy)
    if not dist.all_true(fault is None):
        raise _broken_rollout(parts, prompts, step, fault, redraw)
    return Drawn.of(made, scores, maps, kept)


def _broken_rollout(
    parts: Parts, prompts: PromptBatch, step: int, fault: NonFiniteStateError | None, redraw: int
) -> BrokenStepError:
    """What to raise, on all ranks, where samples of some rank are not finite."""
    plan = sampling.make(parts.policy, parts.config, step, redraw)
    size = parts.config.data.samples_per_prompt
    own = list(parts.world.rows(prompts.rows * size))[: parts.config.train.micro_batch]

    def again(rows: list[int]) -> None:
        rollout(parts.policy, parts.engine, prompts, rows, plan, passes=1)

    what, found = broken.in_rollout(fault, prompts, size, plan.schedule, parts.policy.module, again, own)
    return BrokenStepError(
        f"training step {step}: {what}; the weights are untouched. The policy has diverged, or model.dtype "
        "is too narrow: lower optim.lr, or type model.dtype=float32",
        found,
        prompts,
    )


@dataclass(frozen=True)
class Shard:
    """Rows to sample together, and how many micro-batches every rank makes of them (a rank may own fewer
    rows, or none).
    """

    rows: Sequence[int]
    passes: int


def shards(parts: Parts) -> list[Shard]:
    """The rows this rank owns, in pieces of `train.shard` rows; as many pieces and forwards on every rank."""
    data, world = parts.config.data, parts.world
    total = data.prompts_per_step * data.samples_per_prompt
    return cut(parts, world.rows(total), -(-total // world.data_size))


def cut(parts: Parts, rows: Sequence[int], most: int) -> list[Shard]:
    """Some rows of this rank in pieces; most: how many the rank with the most of them has."""
    train = parts.config.train
    size = train.shard or most
    return [
        Shard(rows[start : start + size], -(-min(size, most - start) // train.micro_batch))
        for start in range(0, most, size)
    ]


def draw(parts: Parts, step: int) -> tuple[PromptBatch, int]:
    """The prompts of a step, encoded, and how many were truncated."""
    data = parts.config.data
    prompts = sampler.batch(parts.prompts, step, data.prompts_per_step, data.shuffle, parts.config.seed)
    embeds, truncated = parts.policy.encode(prompts.texts, prompts.frames)
    if truncated and parts.world.leads:
        log.warning(
            "%d of %d prompts of step %d are longer than the text encoders take: their ends are ignored",
            truncated,
            prompts.rows,
            step,
        )
    return prompts.replace(embeds=embeds), truncated


def roll(
    parts: Parts,
    prompts: PromptBatch,
    shard: Shard,
    step: int,
    advance: Callable[[], None] = lambda: None,
    redraw: int = 0,
) -> Trajectories:
    """Stage 1 on a shard; redraw: the round of a refill, which has noise of its own."""
    plan = sampling.make(parts.policy, parts.config, step, redraw)
    return rollout(
        parts.policy, parts.engine, prompts, shard.rows, plan, passes=shard.passes, advance=advance
    )


def judge(config: Config, terms: list[Term], prompts: PromptBatch, trajectories: Trajectories) -> LocalScores:
    """Stage 2 on a shard: scores of its media.

    Raises:
        ValueError: the trajectories hold no media.
    """
    if trajectories.media is None:
        raise ValueError(
            "these trajectories hold no media (a whole run frees them once scored); "
            "write some with stage=rollout"
        )
    rows = trajectories.prompt.tolist()
    texts, metadata = [prompts.texts[p] for p in rows], [prompts.metadata[p] for p in rows]
    if dist.repeats():
        return unasked(terms, len(rows))
    return score(terms, texts, metadata, trajectories.media, config.train.score_retries)


def collect(
    config: Config,
    terms: list[Term],
    prompts: PromptBatch,
    trajectories: Trajectories,
    scores: list[LocalScores],
) -> Rewards:
    """Stage 2, the barrier: every rank's scores as Rewards [P, K, R]."""
    size = config.data.samples_per_prompt
    where = trajectories.prompt, trajectories.sample
    return gather(scores, *where, terms, prompts.rows, size, dist.all_gather_rows)


def trusted(
    config: Config,
    prompts: PromptBatch,
    rewards: Rewards,
    prior: PriorState,
    reference: Rewards | None = None,
) -> tuple[Trust, PriorState]:
    """Stage 3. reference: scores of other samples of the same prompts, for priors that read them."""
    combine = config.advantage.combine
    return weigh(rewards, prior, config.trust, config.prior, combine, prompts, reference)


def allocate(psm: PerceptualMap, trajectories: Trajectories) -> Allocation:
    """The local part of stage 4 on a shard: maps of its media, on the CPU.

    Raises:
        ValueError: the trajectories hold no media.
    """
    if trajectories.media is None:
        raise ValueError(
            "these trajectories hold no media to make maps from (a whole run frees them); write some with "
            "stage=rollout, or type advantage.map.source=none"
        )
    made = psm.allocate(trajectories.media, trajectories.free, tuple(trajectories.states.shape[2:]))
    return Allocation(*(part.cpu() for part in made))


def joined(maps: list[Allocation]) -> tuple[Tensor | None, int]:
    """The shards' maps as one [N, F, H, W], and how many rows failed; None without maps."""
    if not maps:
        return None, 0
    return torch.cat([made.map for made in maps]), sum(int(made.failed.sum()) for made in maps)


def built(
    config: Config,
    prompts: PromptBatch,
    rewards: Rewards,
    trust: Trust,
    history: RewardHistory,
    map: Tensor | None = None,
    rows: range | None = None,
) -> tuple[Advantages, RewardHistory]:
    """Stage 4; map: of this rank's `rows` among all P * K. A barrier with apply_to=reward: groups straddle
    ranks, so every rank needs the others' maps.
    """
    return build(
        rewards,
        trust,
        config.advantage,
        prompts.index,
        history,
        contrast_coef=config.trust.crt.weight,
        weigh_contrast=config.trust.ras.weight_crt,
        map=map,
        rows=rows,
        gather=dist.all_gather_rows,
    )


def improve(
    parts: Parts, prompts: PromptBatch, trajectories: Trajectories, advantages: Advantages
) -> PolicyUpdate:
    """Stage 5."""
    config, ema, engine = parts.config, parts.ema, parts.engine

    def after_step() -> None:
        if ema is not None:
            ema.update(engine.masters())

    settings = UpdateSettings(config.advantage, config.sampler, config.train)
    return update(
        parts.policy, engine, prompts, trajectories, advantages, settings, parts.world, after_step=after_step
    )
