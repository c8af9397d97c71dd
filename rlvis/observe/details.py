"""RUN/details.jsonl: one line a training step with what the metrics average away.

    {"step": 3, "prompts": [{"prompt": 17, "text": "a red ring", "kind": "single", "valid": 8, "mean": 0.71,
      "std": 0.1, "terms": {"checker": 0.71}}, ...],
     "transitions": [{"at": 0, "sigma": 1.0, "ratio_max_deviation": 1e-5, "clip_fraction": 0.1,
      "loss": -1e-6, "kl": null}, ...],
     "layers": {"transformer_blocks.0": 0.013, ...}}

mean and std (of the population) are of the weighted sum over the valid samples, terms are means of the raw
terms; null without a valid sample. `at` is the position among the trained transitions, sigma its mean over
the rows. layers: gradient norm of each block before clipping, at the last optimizer step; empty where the
engine shards gradients. Strict JSON, as metrics.jsonl is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvis.observe import lines
from rlvis.observe.lines import json_number
from rlvis.observe.metrics import weighted_sum
from rlvis.records import PolicyUpdate, PromptBatch, Rewards

NAME = "details.jsonl"
TRANSITION = ("sigma", "ratio_max_deviation", "clip_fraction", "loss", "kl")


def row(prompts: PromptBatch, rewards: Rewards, update: PolicyUpdate, step: int) -> dict[str, Any]:
    """The line of a step; step: from 1, as in metrics.jsonl."""
    return {
        "step": step,
        "prompts": _prompts(prompts, rewards),
        "transitions": _transitions(update.details),
        "layers": {
            name.removeprefix("layer/"): json_number(value)
            for name, value in update.details.items()
            if name.startswith("layer/")
        },
    }


def append(run_dir: Path, line: dict[str, Any]) -> None:
    """Add the line of a step to RUN/details.jsonl."""
    lines.append(Path(run_dir) / NAME, [line])


def resume(run_dir: Path, step: int) -> None:
    """Drop the lines from `step` on, the first step to come, and what cannot be read."""
    lines.keep_before(Path(run_dir) / NAME, step)


def _prompts(prompts: PromptBatch, rewards: Rewards) -> list[dict[str, Any]]:
    combined = weighted_sum(rewards)
    entries = []
    for p, (index, text) in enumerate(zip(prompts.index.tolist(), prompts.texts, strict=True)):
        valid = rewards.valid[p]
        known, terms = combined[p][valid], rewards.term[p][valid]
        kind = prompts.metadata[p].get("kind")
        some = len(known) > 0
        means = terms.mean(0).tolist() if some else [None] * len(rewards.names)
        entries.append(
            {
                "prompt": index,
                "text": text,
                "kind": None if kind is None else str(kind),
                "valid": len(known),
                "mean": float(known.mean()) if some else None,
                "std": float(known.std(correction=0)) if some else None,
                "terms": dict(zip(rewards.names, means, strict=True)),
            }
        )
    return entries


def _transitions(details: dict[str, float]) -> list[dict[str, Any]]:
    positions = {name.split("/")[1] for name in details if name.startswith("transition/")}
    entries = []
    for at in sorted(map(int, positions)):
        numbers = {name: details.get(f"transition/{at}/{name}") for name in TRANSITION}
        entries.append({"at": at} | {n: None if v is None else json_number(v) for n, v in numbers.items()})
    return entries
