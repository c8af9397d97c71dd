"""Rollout and scoring, shard by shard: each is sampled, handed to the scorers, mapped, freed of its media.

So decoded frames never pile up, and scorers may work beside the next rollout (reward.executor). Nothing here
is a barrier but the end, where all ranks learn whether some rank's samples were not finite.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rlvis.advantage.maps.psm import Allocation, PerceptualMap
from rlvis.data import sampler
from rlvis.observe import extremes
from rlvis.records import PromptBatch, Trajectories
from rlvis.reward import execute
from rlvis.reward.contract import Term
from rlvis.reward.stage import LocalScores, unasked
from rlvis.reward.stage import score as score_media
from rlvis.rollout import plan as sampling_plan
from rlvis.rollout.stage import NonFiniteStateError
from rlvis.rollout.stage import rollout as sample
from rlvis.runtime import dist, non_finite
from rlvis.runtime.clock import Clock
from rlvis.schema import Config
from rlvis.training.parts import BrokenStepError, Hooks, Parts
from rlvis.training.rollout_batch import RolloutBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """Global rows to sample together, and how many micro-batches every rank makes of them (a rank may own
    fewer rows, or none).
    """

    rows: Sequence[int]
    passes: int


def local_shards(parts: Parts) -> list[Shard]:
    """The rows this rank owns, in pieces of `train.shard` rows; as many pieces and forwards on every rank."""
    data, world = parts.config.data, parts.world
    total = data.prompts_per_step * data.samples_per_prompt
    return split_rows(parts.config, world.rows(total), -(-total // world.data_size))


def split_rows(config: Config, rows: Sequence[int], most: int) -> list[Shard]:
    """Some rows of this rank in pieces; most: how many the rank with the most of them has."""
    size = config.train.shard or most
    return [
        Shard(rows[start : start + size], -(-min(size, most - start) // config.train.micro_batch))
        for start in range(0, most, size)
    ]


def draw_prompts(parts: Parts, step: int) -> tuple[PromptBatch, int]:
    """The prompts of a step, encoded, and how many were truncated."""
    data = parts.config.data
    prompts = sampler.batch(parts.prompts, step, data.prompts_per_step, data.shuffle, parts.config.seed)
    embeds, truncated = parts.policy.encode(prompts.texts, prompts.frames)
    if truncated and parts.world.is_main:
        log.warning(
            "%d of %d prompts of step %d are longer than the text encoders take: their ends are ignored",
            truncated,
            prompts.rows,
            step,
        )
    return prompts.replace(embeds=embeds), truncated


def sample_shards(
    parts: Parts,
    prompts: PromptBatch,
    shards: Sequence[Shard],
    step: int,
    clock: Clock,
    hooks: Hooks,
    redraw: int = 0,
) -> RolloutBatch:
    """Stages 1 and 2 without their barrier: this rank's rows, scored, mapped, freed of their media.

    redraw: the round of a refill, 0 for the samples of the step. Raises BrokenStepError on all ranks.
    """
    trajectories, scoring, maps, thumbnails = [], [], [], []
    errors: list[NonFiniteStateError] = []
    with execute.opened(parts.config.reward.executor) as executor:
        for shard in shards:
            try:
                with clock.stage("rollout"):
                    piece = rollout_shard(parts, prompts, shard, step, hooks.advance, redraw)
            except NonFiniteStateError as error:  # the other ranks go on sampling until all can stop
                errors.append(error)
                continue
            hooks.watch(piece)
            with clock.stage("score"):
                job = partial(score_shard, parts.config, parts.terms, prompts, piece)
                scoring.append(executor.submit(job))
            if parts.psm is not None:
                # Maps need frames and nothing of the rewards, so the frames of a shard can go.
                with clock.stage("build"), clock.stage("map"):
                    maps.append(map_shard(parts.psm, piece))
            if hooks.keep_thumbnails and piece.media is not None:
                thumbnails.append(extremes.thumbnails(piece.media))
            trajectories.append(piece.replace(media=None))
        with clock.stage("score"):
            scores = [job.result() for job in scoring]
    clock.add("scorers", executor.busy)
    if not dist.all_true(not errors):
        raise _broken_rollout(parts, prompts, step, errors, redraw)
    return RolloutBatch.concatenate(trajectories, scores, maps, thumbnails)


def rollout_shard(
    parts: Parts,
    prompts: PromptBatch,
    shard: Shard,
    step: int,
    advance: Callable[[], None] = lambda: None,
    redraw: int = 0,
) -> Trajectories:
    """Stage 1 on a shard; redraw: the round of a refill, which has noise of its own."""
    plan = sampling_plan.make(parts.policy, parts.config, step, redraw)
    return sample(parts.policy, parts.engine, prompts, shard.rows, plan, passes=shard.passes, advance=advance)


def score_shard(
    config: Config, terms: list[Term], prompts: PromptBatch, trajectories: Trajectories
) -> LocalScores:
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
    if dist.is_duplicate():
        return unasked(terms, len(rows))
    retries, patience = config.train.score_retries, config.reward.patience
    return score_media(terms, texts, metadata, trajectories.media, retries, patience=patience)


def map_shard(psm: PerceptualMap, trajectories: Trajectories) -> Allocation:
    """The local part of stage 4 on a shard: maps of its media, on the CPU.

    Raises:
        ValueError: the trajectories hold no media.
    """
    if trajectories.media is None:
        raise ValueError(
            "these trajectories hold no media to make maps from (a whole run frees them); write some with "
            "stage=rollout, or type advantage.map.source=none"
        )
    maps = psm.allocate(trajectories.media, trajectories.free, tuple(trajectories.states.shape[2:]))
    return Allocation(*(part.cpu() for part in maps))


def _broken_rollout(
    parts: Parts, prompts: PromptBatch, step: int, errors: Sequence[NonFiniteStateError], redraw: int
) -> BrokenStepError:
    """What to raise, on all ranks, where samples of some rank are not finite."""
    plan = sampling_plan.make(parts.policy, parts.config, step, redraw)
    size = parts.config.data.samples_per_prompt
    local_rows = list(parts.world.rows(prompts.rows * size))[: parts.config.train.micro_batch]

    def again(rows: list[int]) -> None:
        sample(parts.policy, parts.engine, prompts, rows, plan, passes=1)

    what, where = non_finite.trace_rollout(
        [row for error in errors for row in error.rows],
        errors[0].micro_batch if errors else local_rows,
        prompts,
        size,
        plan.schedule,
        parts.policy.module,
        again,
    )
    return BrokenStepError(
        f"training step {step}: {what}; the weights are untouched. The policy has diverged, or model.dtype "
        "is too narrow: lower optim.lr, or type model.dtype=float32",
        where,
        prompts,
    )
