"""What is healthy: limits on metrics and the symptoms that a run shows, each with numbers, likely cause and
override.

The rules are functions over the whole run (health_update, health_groups, health_reward, health_rest,
health_sentinels); windows keep a noisy step, and runs of a few steps, from raising alarms. Limits were set on
healthy runs of the tiny policies and on runs made sick on purpose; they are for a look, a run is never
stopped by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvis.observe import health_groups, health_rest, health_reward, health_sentinels, health_update
from rlvis.observe.symptom import BROKEN, SUSPICIOUS, Seen, Symptom

__all__ = ["BROKEN", "SUSPICIOUS", "Symptom", "limits", "symptoms"]

RULES = (
    *health_update.RULES,
    *health_groups.RULES,
    *health_reward.RULES,
    *health_rest.RULES,
    *health_sentinels.RULES,
)


def symptoms(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Symptom]:
    """What a run shows that a healthy one does not, by step; [] for a healthy run.

    rows: of metrics.jsonl by step. config: config.yaml as nested mapping. Both may lack anything: a rule
    without its metric says nothing.
    """
    seen = Seen(rows, config)
    found = [symptom for rule in RULES for symptom in rule(seen)]
    return sorted(found, key=lambda s: (s.step, s.severity != BROKEN, s.name))


def limits(config: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Metric key -> (lowest, highest) healthy value, None where that side is open, for this configuration."""
    seen = Seen([], config)
    found: dict[str, tuple[float | None, float | None]] = {
        "ratio/max_deviation_first": (None, seen.clip / 4),
        "ratio/max_deviation": (None, health_update.far(seen)),
        "kl/approx": (None, health_update.KL_APPROX),
        "kl/reference": (None, health_update.KL_REFERENCE),
        "group/zero_variance_fraction": (None, health_groups.ZERO_VARIANCE),
        "reward/valid_fraction": (1.0 - health_groups.INVALID, None),
        "reward/invalid_count": (None, 0.0),
        "data/truncated_prompts": (None, 0.0),
    }
    updates = int(seen.told("train.updates_per_step", 2))
    if updates > 1:
        share = health_update.CLIPPED * (updates - 1) / updates
        found |= {"clip/fraction_high": (None, share), "clip/fraction_low": (None, share)}
    if seen.told("trust.kind", "none") != "none" and seen.told("data.prompts_per_step"):
        least = health_rest.EFFECTIVE * float(seen.told("data.prompts_per_step"))
        found["trust/effective_groups"] = (least, None)
    if seen.told("trust.crt.form", "none") != "none":
        found["trust/inverted_fraction"] = (None, health_rest.INVERTED)
    if seen.told("advantage.map.source", "none") != "none":
        found |= {"map/entropy": (health_rest.ENTROPY, None), "map/failed": (None, 0.0)}
    return found | health_sentinels.limits(seen)
