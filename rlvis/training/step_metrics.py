"""What one training step reports: metric name -> value, as in the table of `rlvis.observe.metric_table`."""

from __future__ import annotations

import torch

from rlvis.observe.metrics import advantage_metrics, map_metrics, reward_metrics, trust_metrics
from rlvis.records import StepRecords
from rlvis.reward import cache
from rlvis.runs import step_files
from rlvis.runtime import dist
from rlvis.runtime.learning_rate import learning_rate
from rlvis.training.parts import Parts


def step_metrics(parts: Parts, records: StepRecords, seconds: float) -> dict[str, float]:
    """Everything that a step of `seconds` reports; a collective."""
    config, samples = parts.config, records.advantages.keep.numel()
    memory = max(records.peak.values(), default=0) / 2**30
    metrics = {
        **reward_metrics(records.rewards),
        **advantage_metrics(records.advantages, records.rewards, adv_clip=config.advantage.adv_clip),
    }
    if step_files.weighs_groups(config):
        metrics |= trust_metrics(records.trust, records.rewards, config.advantage.combine)
    if records.map is not None:
        metrics |= map_metrics(records.map, records.trajectories.free, records.failed_maps, dist.all_reduce)
    if config.reward.refill:
        metrics["reward/refilled"] = float(records.refilled)
    return {
        **metrics,
        **cache.metrics(parts.terms),
        **_news(parts),
        **records.update.metrics,
        **{f"time/{name}": value for name, value in records.seconds.items()},
        **{f"memory/{name}": value / 2**30 for name, value in records.peak.items()},
        "update/learning_rate": learning_rate(
            config.optim, config.train.steps, records.trajectories.policy_step
        ),
        "data/truncated_prompts": float(records.truncated),
        "time/step": seconds,
        "throughput/samples_per_second": samples / seconds,
        "memory/max_gib": float(dist.all_reduce(torch.tensor([memory]), "max")[0]),
    }


def _news(parts: Parts) -> dict[str, float]:
    """What happened to the calls of each term: repeated ones and samples asked alone (all ranks), the seconds
    that took (the slowest rank), and means of what functions returned beside scores (rank 0). A collective.
    """
    terms = parts.terms
    news = [term.boundary.take() for term in terms]
    counts = torch.tensor([[one.retried, one.alone] for one in news], dtype=torch.float64)
    seconds = torch.tensor([sum(one.seconds for one in news)], dtype=torch.float64)
    counts, longest = dist.all_reduce(counts, "sum"), float(dist.all_reduce(seconds, "max")[0])
    metrics = {"time/recovery": longest} if bool(counts.any()) else {}
    for term, one, (retried, alone) in zip(terms, news, counts.tolist(), strict=True):
        found = {"retried": retried, "alone": alone}
        metrics |= {f"reward/{term.name}/{name}": value for name, value in found.items() if value}
        metrics |= {f"reward/{term.name}/extra/{name}": value for name, value in one.means().items()}
    return metrics
