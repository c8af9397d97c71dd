"""RUN/trust.jsonl: one line a group of a step, saying what its weight was made of.

The metrics say how weights are spread; this says whose they are. A line holds a prompt, an objective, the
group's statistics over its valid samples, the prior it was compared with and the weight. Strict JSON, written
as metrics.jsonl is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvis.observe import lines
from rlvis.observe.metrics import weighted_sum
from rlvis.records import PromptBatch, Rewards, Trust
from rlvis.schema import Combine

NAME = "trust.jsonl"
SUM = "sum"  # the objective of a weighted sum


def rows(
    trust: Trust,
    rewards: Rewards,
    prompts: PromptBatch,
    step: int,
    combine: Combine,
    *,
    posterior: bool = False,
) -> list[dict[str, Any]]:
    """One row per group and objective, P * Q of them, prompt by prompt.

    trust, rewards, prompts: the step's, gathered. step: from 1, as in metrics.jsonl. posterior: whether the
    trust form has a posterior mean (trust.kind=posterior). Rewards are raw, std is unbiased. A number that
    does not exist is None: mean without a valid sample, std and posterior_mean below two, prior_* without a
    prior (prior_count 0: nothing was known yet, and the weight is 1).
    """
    if combine is Combine.weighted_sum:
        names: tuple[str, ...] = (SUM,)
        values = weighted_sum(rewards)[..., None]
    else:
        names, values = rewards.names, torch.where(rewards.valid[..., None], rewards.term, 0.0)
    count, mean, var = _statistics(values, rewards.valid)
    table = []
    for p, (index, text) in enumerate(zip(prompts.index.tolist(), prompts.texts, strict=True)):
        n = int(count[p])
        for q, name in enumerate(names):
            row = {
                "step": step,
                "prompt": index,
                "text": text,
                "objective": name,
                "count": n,
                "mean": float(mean[p, q]) if n else None,
                "std": float(var[p, q].sqrt()) if n > 1 else None,
                "prior_mean": _at(trust.anchor_mean, p, q),
                "prior_var": _at(trust.anchor_var, p, q),
                "prior_count": _at(trust.anchor_count, p, q),
                "weight": float(trust.weight[p, q]),
            }
            if posterior:
                row["posterior_mean"] = _posterior_mean(row, float(var[p, q]))
            table.append(row)
    return table


def append(run_dir: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add the rows of a step to RUN/trust.jsonl."""
    lines.append(Path(run_dir) / NAME, rows)


def resume(run_dir: Path, step: int) -> None:
    """Drop the lines of RUN/trust.jsonl from `step` on, the first step to come, and what cannot be read."""
    lines.keep_before(Path(run_dir) / NAME, step)


def _statistics(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Valid samples [P], and the mean and unbiased variance [P, Q] of values [P, K, Q] over them."""
    count = valid.sum(1)
    mean = values.sum(1) / count.clamp(min=1)[:, None]
    deviation = torch.where(valid[..., None], values - mean[:, None], 0.0)
    return count, mean, deviation.square().sum(1) / (count - 1).clamp(min=1)[:, None]


def _at(values: Tensor | None, p: int, q: int) -> float | None:
    return None if values is None else float(values[p, q])


def _posterior_mean(row: dict[str, Any], var: float) -> float | None:
    """Mean of N(prior_mean, prior_var) after the group, whose mean has variance var / count."""
    prior, prior_var = row["prior_mean"], row["prior_var"]
    if row["count"] < 2 or prior is None or prior_var is None or not row["prior_count"]:
        return None
    total = prior_var + var / row["count"]
    share = prior_var / total if total > 0 else 0.0
    return float(prior + share * (row["mean"] - prior))
