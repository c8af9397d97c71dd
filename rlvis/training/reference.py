"""Scores of other samples of the same prompts, for the priors that look them up (rlvis/trust/prior.py).

`reference` (arXiv 2511.18919 for text-to-video): K samples of the policy before training by the training
sampler, scored once and kept (see reference_table.py). `stage=reference` scores the whole data set; a run
scores what its own steps will draw, before its first step, while the weights are still those of the
reference. So full fine-tuning needs no second copy of the policy, and stopping loses at most one block.
`first_frame` (image-to-video): the score of the condition frame.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from rlvis.checks.sentinels import needs_reference
from rlvis.data import sampler
from rlvis.data.prompts import PromptSet
from rlvis.records import PriorState, PromptBatch, Rewards, Trajectories
from rlvis.reward.contract import Term
from rlvis.reward.gather import gather
from rlvis.reward.stage import score, unasked
from rlvis.runtime import dist, interrupt
from rlvis.runtime.dist import World
from rlvis.runtime.progress import clock
from rlvis.schema import Config
from rlvis.training import pipeline, reference_table, sampling
from rlvis.training.parts import Lookup, Parts
from rlvis.training.reference_table import Table
from rlvis.trust.prior import prior_of

log = logging.getLogger(__name__)

STEP = -2  # the "training step" whose noise and window reference samples have; sheets have -1
Value = TypeVar("Value")


def prepare(
    parts: Parts, state: PriorState, first: int, stop: Callable[[], bool] = lambda: False
) -> Parts | None:
    """The run with scores at hand for every prompt that its steps will draw; None where `stop` cut it short.

    Args:
        parts: the run. state: of the prior before step `first`; prompts that it remembers need no scores.
        first: training steps done; above 0 the weights are no longer those of the reference.
        stop: asked between blocks of prompts, on any rank.

    Raises:
        ValueError: scores are missing, and the policy before training is gone (full fine-tuning, resumed).
    """
    config = parts.config
    prior = prior_of(config.prior)
    if prior.looks_up == "first_frame":
        return replace(parts, reference=frame_lookup(config, parts.world, parts.terms))
    if prior.looks_up is None:
        return parts
    table = open_table(config, parts.world)
    wanted = [i for i in _coming_prompts(parts, first) if prior.unknown(state.values, _one(parts.prompts, i))]
    done = fill(parts, table, wanted, trained=first > 0, stop=stop)
    return replace(parts, reference=table_lookup(config, parts.world, table)) if done else None


def table_only(parts: Parts) -> int:
    """`stage=reference`: score the whole data set; the exit code."""
    table = open_table(parts.config, parts.world)
    with interrupt.listen() as stop_request:
        done = fill(
            parts, table, range(len(parts.prompts)), trained=False, stop=lambda: stop_request.requested
        )
    return 0 if done else interrupt.EXIT_CODE


def saved_lookup(config: Config, world: World, terms: Callable[[], list[Term]]) -> Lookup | None:
    """What stage=weigh alone looks scores up with; `terms` is called where frames must be scored."""
    looks_up = prior_of(config.prior).looks_up
    if looks_up == "first_frame":
        return frame_lookup(config, world, terms())
    return None if looks_up is None else table_lookup(config, world, open_table(config, world))


def open_table(config: Config, world: World) -> Table:
    """The table of a configuration, on every rank."""
    return _on_main(world, lambda: reference_table.open_table(config))


def fill(
    parts: Parts,
    table: Table,
    positions: Sequence[int],
    *,
    trained: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Sample and score those prompts of the data set that the table lacks; False where `stop` cut it short.

    Blocks of data.prompts_per_step prompts are written as they are done. trained: whether the weights have
    changed since they were loaded.

    Raises:
        ValueError: there is something to sample, and the policy before training is gone.
    """
    config, texts, metadata = parts.config, parts.prompts.texts, parts.prompts.metadata
    todo = _on_main(parts.world, lambda: [i for i in positions if not table.has(texts[i], metadata[i])])
    log.info(
        "reference scores: %d of %d prompts are in %s, %d to go with %d samples each",
        len(positions) - len(todo),
        len(positions),
        table.folder,
        len(todo),
        config.prior.samples,
    )
    if todo and trained and not _recoverable(config):
        raise ValueError(
            f"prior.kind={config.prior.kind}: {len(todo)} prompts of the steps to come have no scores in "
            f"{table.folder} (the first: {texts[todo[0]]!r}), and the policy before training is gone under "
            "full fine-tuning; type stage=reference with the words of this run but resume, then go on"
        )
    size, start = config.data.prompts_per_step, time.perf_counter()
    for done in range(0, len(todo), size):
        if dist.any_true(stop()):
            log.warning("stopped; what has been scored is in %s, and the same words go on", table.folder)
            return False
        block = todo[done : done + size]
        rewards = _sample(parts, block, trained)
        if parts.world.is_main:
            for row, i in enumerate(block):
                table.write(texts[i], metadata[i], rewards.take([row]))
        ready = done + len(block)
        left = (time.perf_counter() - start) / ready * (len(todo) - ready)
        log.info("reference scores: %d/%d prompts  ETA %s", ready, len(todo), clock(left))
    dist.barrier()
    return True


def table_lookup(config: Config, world: World, table: Table) -> Lookup:
    """A lookup in a table that is filled."""

    def look_up(prompts: PromptBatch, state: PriorState) -> Rewards | None:
        wanted = prior_of(config.prior).unknown(state.values, prompts)

        def read() -> list[Rewards]:
            scored = {p: table.read(prompts.texts[p], prompts.metadata[p]) for p in wanted}
            lost = [p for p, rewards in scored.items() if rewards is None]
            if lost:
                raise ValueError(
                    f"prior.kind={config.prior.kind}: {len(lost)} of {prompts.rows} prompts of this step "
                    f"have no scores in {table.folder}, the first: {prompts.texts[lost[0]]!r} (prompt "
                    f"{int(prompts.index[lost[0]])}); type stage=reference with the same settings, then again"
                )
            return [rewards for rewards in scored.values() if rewards is not None]

        parts = _on_main(world, read)
        return _spread(Rewards.concatenate(parts), wanted, prompts.rows) if parts else None

    return look_up


def frame_lookup(config: Config, world: World, terms: Sequence[Term]) -> Lookup:
    """A lookup that scores condition frames, as clips of one frame; ranks share the prompts."""

    def look_up(prompts: PromptBatch, state: PriorState) -> Rewards | None:
        wanted = prior_of(config.prior).unknown(state.values, prompts)
        if not wanted:
            return None
        if prompts.frames is None:
            lost = wanted[0]
            raise ValueError(
                f"prior.kind={config.prior.kind} scores condition frames, and prompt "
                f"{int(prompts.index[lost])} ({prompts.texts[lost]!r}) has none; type "
                "prior=moving_average, which needs none"
            )
        local = [wanted[i] for i in world.rows(len(wanted))]
        texts, metadata = [prompts.texts[p] for p in local], [prompts.metadata[p] for p in local]
        media = prompts.frames[local][:, None].cpu()
        if dist.is_duplicate():
            scores = unasked(terms, len(local))
        else:
            retries, patience = config.train.score_retries, config.reward.patience
            scores = score(terms, texts, metadata, media, retries, patience=patience)
        place = torch.tensor(list(world.rows(len(wanted))), dtype=torch.int64)
        first = torch.zeros_like(place)
        rewards = gather([scores], place, first, terms, len(wanted), 1, dist.all_gather_rows)
        return _spread(rewards.replace(noise_var=None, noise_dof=None), wanted, prompts.rows)

    return look_up


def _sample(parts: Parts, positions: list[int], trained: bool) -> Rewards:
    """Rewards [P, K_ref, R] of the prompts at these positions; a collective, like a training step's.

    It is the first half of a training step with K_ref samples; only the keys of its noise differ.
    """
    chosen = sampler.select(parts.prompts, positions)
    keys = [reference_table.number_of(*pair) for pair in zip(chosen.texts, chosen.metadata, strict=True)]
    embeds, _ = parts.policy.encode(chosen.texts, chosen.frames)
    prompts = chosen.replace(index=torch.tensor(keys), embeds=embeds)
    config = parts.config
    data = replace(config.data, prompts_per_step=prompts.rows, samples_per_prompt=config.prior.samples)
    parts = replace(parts, config=replace(config, data=data))
    pieces, scores = [], []
    with _before_training(parts, trained):
        for shard in sampling.local_shards(parts):
            piece = sampling.rollout_shard(parts, prompts, shard, STEP)
            scores.append(sampling.score_shard(parts.config, parts.terms, prompts, piece))
            pieces.append(piece.replace(media=None))
    together = Trajectories.concatenate(pieces)
    return pipeline.score(parts.config, parts.terms, prompts, together, scores)


@contextmanager
def _before_training(parts: Parts, trained: bool) -> Iterator[None]:
    """Inside it the policy is the reference: adapters off; all weights as loaded, or their frozen copy."""
    if parts.config.model.lora is None and not trained:
        yield
        return
    with parts.policy.reference():
        yield


def _recoverable(config: Config) -> bool:
    """Whether the policy before training can still be run: adapters go off, and a KL term keeps a copy."""
    return config.model.lora is not None or needs_reference(config)


def _coming_prompts(parts: Parts, first: int) -> list[int]:
    """Positions of the prompts that steps `first` .. train.steps - 1 draw, in the order of the data set."""
    data, positions = parts.config.data, set[int]()
    for step in range(first, parts.config.train.steps):
        if len(positions) == len(parts.prompts):
            break
        batch = sampler.batch(parts.prompts, step, data.prompts_per_step, data.shuffle, parts.config.seed)
        positions.update(batch.index.tolist())
    return sorted(positions)


def _one(prompts: PromptSet, position: int) -> PromptBatch:
    return sampler.select(prompts, [position])


def _spread(rewards: Rewards, rows: list[int], total: int) -> Rewards:
    """Rewards of some rows as those of all: the others are not valid, and nothing reads them."""
    if rows == list(range(total)):
        return rewards
    term = torch.full((total, *rewards.term.shape[1:]), math.nan, dtype=torch.float64)
    valid = torch.zeros(total, rewards.valid.shape[1], dtype=torch.bool)
    term[rows], valid[rows] = rewards.term, rewards.valid
    return rewards.replace(term=term, valid=valid)


@dataclass(frozen=True)
class _Refused:
    message: str


def _on_main(world: World, make: Callable[[], Value]) -> Value:
    """What rank 0 makes, on every rank; its complaint too, or the others would wait for it for ever."""
    result: Value | _Refused | None = None
    if world.is_main:
        try:
            result = make()
        except (ValueError, OSError) as error:
            result = _Refused(str(error))
    result = dist.broadcast_object(result)
    if isinstance(result, _Refused):
        raise ValueError(result.message)
    return result
