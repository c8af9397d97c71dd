"""Does it learn? A short run of the embedded default, judged on fixed prompts and noise by the deterministic
sampler.

    python -m benchmarks.learning --method grpo --sign 1      # writes results/learning_grpo.json
    python -m benchmarks.learning --method grpo --sign -1     # learning_grpo_against.json: against its reward

tests/training/test_learning.py takes its thresholds from those files: mean - 3 sd over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from rlvis.compose.command import compose
from rlvis.data import sampler
from rlvis.records import PriorState, PromptBatch, RewardHistory
from rlvis.reward.contract import Term
from rlvis.rollout.generate import generate
from rlvis.runtime import dist
from rlvis.training import pipeline
from rlvis.training.assemble import assemble
from rlvis.training.parts import Memory, Parts

RESULTS = Path(__file__).parent / "results"
METHODS = ("grpo", "bpgo", "vipo", "bpgo_vipo")
NOISES = 2  # pictures of each prompt in the judgement
# Short enough for a test: fewer steps than the default's, at a slightly higher learning rate.
SHORT = ["train.steps=12", "optim.lr=4e-4", "engine.device=cpu", "threads=1"]


def rise(seed: int, sign: float = 1.0, method: str = "grpo") -> tuple[float, float]:
    """Mean reward (before, after) a short run, on all training prompts from noise that no step sees."""
    config = compose([*SHORT, f"seed={seed}", f"advantage={method}", f"advantage.sign={sign}"]).typed()
    world = dist.start("cpu")
    try:
        parts = assemble(config, world)
        try:
            before = mean_reward(parts)
            memory = Memory(PriorState(kind=config.prior.kind), RewardHistory())
            for step in range(config.train.steps):
                memory, _ = pipeline.train_step(parts, memory, step)
            return before, mean_reward(parts)
        finally:
            parts.engine.close()
    finally:
        dist.stop()


def file_of(method: str, sign: float = 1.0) -> Path:
    """Where the results of a method are."""
    return RESULTS / f"learning_{method}{'' if sign > 0 else '_against'}.json"


def mean_reward(parts: Parts) -> float:
    """Mean reward of NOISES pictures for every prompt of the data set."""
    config = parts.config
    chosen = sampler.select(parts.prompts, range(len(parts.prompts)))
    prompts = chosen.replace(embeds=parts.policy.encode(chosen.texts)[0])
    schedule = parts.policy.schedule(config.sampler.steps, config.sampler.shift, config.sampler.grid)
    scores = [
        _score(parts.terms[0], prompts, _pictures(parts, prompts, schedule, noise)) for noise in range(NOISES)
    ]
    return float(torch.cat(scores).mean())


def _pictures(parts: Parts, prompts: PromptBatch, schedule: Any, seed: int) -> torch.Tensor:
    return generate(parts.policy, parts.engine, prompts, schedule, seed=1000 + seed, micro_batch=9)


def _score(term: Term, prompts: PromptBatch, media: torch.Tensor) -> torch.Tensor:
    return term.scorer(media, list(prompts.texts), list(prompts.metadata)).value


def main() -> None:
    """Run the seeds and write what they gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sign", type=float, default=1.0, choices=[1.0, -1.0])
    parser.add_argument("--method", default="grpo", choices=METHODS)
    args = parser.parse_args()
    start = time.perf_counter()
    pairs = (rise(seed, args.sign, args.method) for seed in range(args.seeds))
    rises = [after - before for before, after in pairs]
    mean, deviation = statistics.mean(rises), statistics.stdev(rises)
    result = {
        "method": args.method,
        "sign": args.sign,
        "short": SHORT,
        "rises": rises,
        "mean": mean,
        "sd": deviation,
        "threshold": mean - args.sign * 3 * deviation,
        "seconds_per_seed": (time.perf_counter() - start) / args.seeds,
        "torch": torch.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    file_of(args.method, args.sign).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
