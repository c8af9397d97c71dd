"""One small step by the run's own stages: sampled, scored, weighed and built as training will, not updated.

As few prompts as give every rank a full micro-batch, with all their samples, all sampling steps and the
configured guidance and window. Its noise has a seed of its own, so no picture of it occurs in the run again.
Scores that a prior would look up elsewhere (reference samples, condition frames) are the probe's own: at the
start the policy is its own reference, and nothing is sampled twice.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlvis.doctor.diagnosis import failure
from rlvis.findings import Finding
from rlvis.records import Advantages, PromptBatch, Rewards, Trajectories, Trust
from rlvis.runtime import dist
from rlvis.schema import Config
from rlvis.training import pipeline, sampling
from rlvis.training.parts import Memory, Parts
from rlvis.trust.prior import prior_of

SEED = 1 << 40  # apart from any seed that somebody types


@dataclass(frozen=True)
class Probe:
    """What a small step left: the parts with its sizes, its records, this rank's frames, seconds per stage.

    samples_of_a_step: of a whole training step, on all ranks.
    """

    parts: Parts
    prompts: PromptBatch
    trajectories: Trajectories
    media: Tensor
    rewards: Rewards
    trust: Trust
    advantages: Advantages
    seconds: dict[str, float]
    samples_of_a_step: int


def size(config: Config, ranks: int) -> int:
    """Prompts of the probe: a full micro-batch on every rank, at least two prompts, at most the step's."""
    rows = config.train.micro_batch * ranks
    return min(config.data.prompts_per_step, max(2, -(-rows // config.data.samples_per_prompt)))


def probe(parts: Parts, memory: Memory, step: int) -> Probe | Finding:
    """Stages 1 to 4 of training step `step` in small; a finding where the policy's samples are not finite.

    A collective. memory: as the step will find it; it is not changed.
    Raises ValueError for what would stop the training step in the same way (a prior without its field).
    """
    config = parts.config
    data = replace(config.data, prompts_per_step=size(config, parts.world.data_size))
    small = replace(parts, config=replace(config, data=data), reference=None)
    start = time.perf_counter()
    prompts = _drawn(small, step)
    config = replace(small.config, seed=config.seed ^ SEED)
    small = replace(small, config=config)
    pieces, scores, maps, media, failed = [], [], [], [], ""
    seconds = {"encode": time.perf_counter() - start, "rollout": 0.0, "score": 0.0}
    for shard in sampling.local_shards(small):
        start = time.perf_counter()
        try:
            piece = sampling.rollout_shard(small, prompts, shard, step)
        except FloatingPointError as error:
            failed = str(error)
            break
        seconds["rollout"] += time.perf_counter() - start
        start = time.perf_counter()
        scores.append(sampling.score_shard(config, small.terms, prompts, piece))
        seconds["score"] += time.perf_counter() - start
        if small.psm is not None:
            maps.append(sampling.map_shard(small.psm, piece))
        assert piece.media is not None, "the rollout decodes"
        media.append(piece.media)
        pieces.append(piece.replace(media=None))
    if dist.any_true(bool(failed)):
        return _diverged(failed or "another rank's samples are not finite")
    trajectories = Trajectories.concatenate(pieces)
    rewards = pipeline.score(config, small.terms, prompts, trajectories, scores)
    trust, _ = pipeline.weigh(config, prompts, rewards, memory.prior, lambda *_: _elsewhere(config, rewards))
    whole_maps = torch.cat([piece.map for piece in maps]) if maps else None
    advantages, _ = pipeline.build(config, prompts, rewards, trust, memory.history, whole_maps, parts.world)
    whole = parts.config.data.prompts_per_step * parts.config.data.samples_per_prompt
    kept = _trainable(advantages)
    return Probe(small, prompts, trajectories, torch.cat(media), rewards, trust, kept, seconds, whole)


def _drawn(parts: Parts, step: int) -> PromptBatch:
    """The prompts of the step, encoded; that some are cut is a finding of its own and told once."""
    before = sampling.log.level
    sampling.log.setLevel(logging.ERROR)
    try:
        return sampling.draw_prompts(parts, step)[0]
    finally:
        sampling.log.setLevel(before)


def _elsewhere(config: Config, rewards: Rewards) -> Rewards | None:
    """Scores in place of those that a prior looks up: all of the probe's own, or one of each group."""
    looks_up = prior_of(config.prior).looks_up
    if looks_up is None:
        return None
    some = slice(0, 1 if looks_up == "first_frame" else None)
    return rewards.replace(
        term=rewards.term[:, some], valid=rewards.valid[:, some], noise_var=None, noise_dof=None
    )


def _trainable(advantages: Advantages) -> Advantages:
    """The same, where nothing of it could be trained (no valid score) with every sample kept: the replay
    does not depend on rewards.
    """
    if bool(advantages.keep.any()):
        return advantages
    return advantages.replace(keep=torch.ones_like(advantages.keep))


def _diverged(reason: str) -> Finding:
    why = "there is nothing to score or to train where the policy's own samples are not numbers"
    return failure("samples", reason, why=why, type="model.dtype=float32, or another model.path")
