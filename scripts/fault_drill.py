"""Trains the embedded default on rewards that fail, and looks whether any failure became a number.

    python scripts/fault_drill.py                      # about 3 minutes on a laptop
    python scripts/fault_drill.py --refill 1 --steps 6 train.shard=12

Six faults: three in ten calls raise; a scorer raises on single pictures; a server (`rlvis serve`, a process
of its own) is killed without warning and started again; answers are garbage; answers come far too late; one
of two servers is always late, with hedging. Each run is repeated with honest scorers and the same samples
marked invalid by hand: both must end in the same weights, bit for bit, and every number that the faulty run
kept must be the honest one. The reward is the JPEG size, which is the same to the last bit alone and in a
batch (the world's checker differs by 1e-8, as most networks do).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from drills import faults
from torch import Tensor

from rlvis.compose.command import compose
from rlvis.records import PriorState, RewardHistory, StepRecords
from rlvis.reward import scorer
from rlvis.reward.contract import Term
from rlvis.reward.stage import LocalScores
from rlvis.runtime import dist
from rlvis.runtime.deepspeed_setup import quiet_deepspeed
from rlvis.schema import Config
from rlvis.training import pipeline, sampling
from rlvis.training.assemble import assemble
from rlvis.training.parts import Memory

SMALL = [
    "reward=jpeg",
    "engine.device=cpu",
    "threads=1",
    "data.prompts_per_step=4",
    "data.samples_per_prompt=6",
    "train.micro_batch=6",
    "train.shard=6",
    "train.score_retries=0",  # so that more is lost
]


@dataclass
class Trained:
    """What a run left: the scores of every shard as they came, and a digest of the weights.

    invalid: samples without a score. numbers: values of theirs that are numbers all the same. refilled:
    samples that were drawn anew.
    """

    calls: list[LocalScores]
    invalid: int
    refilled: int
    numbers: int
    weights: str
    seconds: float


class Drill:
    """Runs of one configuration. refill: rounds of fresh samples for those that failed."""

    def __init__(self, words: Sequence[str], steps: int, refill: int) -> None:
        self.words = [*SMALL, f"train.steps={steps}", f"reward.refill={refill}", *words]
        self.honest = scorer.build(self.config().reward)[0]

    def config(self, *words: str) -> Config:
        """The run's configuration with further words."""
        return compose([*self.words, *words]).typed()

    def train(self, term: Term, executor: str, watch: Callable[[LocalScores], LocalScores]) -> Trained:
        """One run. watch: sees the scores of each shard, and may put others in their place."""
        config = self.config()
        config.reward.executor = type(config.reward.executor)(executor)
        calls: list[LocalScores] = []
        score_shard = sampling.score_shard

        def watched(*arguments: Any) -> LocalScores:
            calls.append(watch(score_shard(*arguments)))
            return calls[-1]

        start = time.perf_counter()
        world = dist.start("cpu")
        try:
            with patch.object(sampling, "score_shard", watched):
                records, weights = self._steps(config, world, term)
        finally:
            dist.stop()
        lost = [step.rewards.term[~step.rewards.valid] for step in records]
        return Trained(
            calls=calls,
            invalid=sum(map(len, lost)),
            refilled=sum(step.refilled for step in records),
            numbers=sum(int(torch.isfinite(values).sum()) for values in lost),
            weights=weights,
            seconds=time.perf_counter() - start,
        )

    def _steps(self, config: Config, world: dist.World, term: Term) -> tuple[list[StepRecords], str]:
        """The records of all steps, and a digest of the weights after them."""
        parts = replace(assemble(config, world), terms=[term])
        try:
            memory, steps = Memory(PriorState(kind="none"), RewardHistory()), []
            for step in range(config.train.steps):
                memory, records = pipeline.train_step(parts, memory, step)
                steps.append(records)
            return steps, _digest(dict(parts.engine.masters()))
        finally:
            parts.engine.close()

    def pair(self, term: Term, executor: str) -> tuple[Trained, Trained, int]:
        """The faulty run, the same marked by hand, and how many numbers of the first are not the scorer's."""
        faulty = self.train(term, executor, lambda scores: scores)
        masks = iter([scores.valid for scores in faulty.calls])
        honest: list[Tensor] = []

        def mark(scores: LocalScores) -> LocalScores:
            valid = next(masks)
            honest.append(scores.value)
            value = torch.where(valid[:, None], scores.value, math.nan)
            return replace(scores, value=value, valid=valid)

        hand = self.train(self.honest, "inline", mark)
        pairs = zip(faulty.calls, honest, strict=True)
        wrong = sum(int((scores.value != true)[scores.valid].sum()) for scores, true in pairs)
        return faulty, hand, wrong


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> int:
    """Run the drills, print a table; 0 when no failure became a number and all weights agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--refill", type=int, default=0, help="reward.refill")
    parser.add_argument("--only", choices=faults.NAMES, action="append")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides of the small run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_deepspeed("cpu")
    os.environ.setdefault("RLVIS_TOKEN", secrets.token_urlsafe(24))
    drill = Drill(options.words, options.steps, options.refill)
    print("fault            shards  valid  invalid  refilled  failures with a number  other numbers  weights")
    bad = 0
    for name in options.only or faults.NAMES:
        with faults.faulty(drill.honest, name) as (term, executor):
            faulty, hand, wrong = drill.pair(term, executor)
        lost = sum(int((~scores.valid).sum()) for scores in faulty.calls)
        valid = sum(len(scores.valid) for scores in faulty.calls) - lost
        same = faulty.weights == hand.weights and faulty.invalid == hand.invalid
        bad += not same or faulty.numbers > 0 or wrong > 0
        print(
            f"{name:15}  {len(faulty.calls):6}  {valid:5}  {lost:7}  {faulty.refilled:8}  "
            f"{faulty.numbers:22}  {wrong:13}  {'equal' if same else 'DIFFER'}   ({faulty.seconds:.0f} s)",
            flush=True,
        )
    print("every fault was survived" if not bad else f"{bad} faults were NOT survived")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
