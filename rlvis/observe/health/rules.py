"""The rules of health, a row each, and the limits that metrics are drawn with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rlvis.findings import Finding, Severity
from rlvis.observe.health import groups, machine, reward, sentinels, trust_maps, update
from rlvis.observe.health.symptom import Range
from rlvis.observe.history import RunHistory


class Rule(NamedTuple):
    """A rule: what its finding is called, the metrics it reads (as in metrics.KEYS), the function."""

    name: str
    watches: tuple[str, ...]
    look: Callable[[RunHistory], Iterator[Finding]]

    @property
    def healthy(self) -> str:
        """What a healthy run does, in a sentence."""
        return " ".join(str(self.look.__doc__).split())


CLIPPING = ("clip/fraction_high", "clip/fraction_low", "update/optimizer_steps")
DEVIATIONS = ("sentinel/<statistic>/deviation",)

RULES = (
    Rule("ratio-first", ("ratio/max_deviation_first",), update.ratio_first),
    Rule("ratio-far", ("ratio/max_deviation",), update.ratio_far),
    Rule("clip-always", CLIPPING, update.clip_always),
    Rule("clip-pulls-back", (*CLIPPING, "clip/allowed_fraction", "clip/range"), update.clip_pulls),
    Rule("clip-never", CLIPPING, update.clip_never),
    Rule("kl-approx-grows", ("kl/approx",), update.kl_approx),
    Rule("kl-reference-grows", ("kl/reference",), update.kl_reference),
    Rule("gradient-not-finite", ("update/grad_norm",), update.gradient_not_finite),
    Rule("loss-not-finite", ("update/loss",), update.loss_not_finite),
    Rule("gradient-jump", ("update/grad_norm",), update.gradient_jump),
    Rule("zero-variance", ("group/zero_variance_fraction", "reward/mean"), groups.zero_variance),
    Rule("reward-constant", ("reward/<term>/std", "reward/<term>/mean"), groups.constant),
    Rule("invalid-samples", ("reward/invalid_count", "reward/valid_fraction"), groups.invalid),
    Rule("spread-collapses", ("group/std_mean", "reward/mean"), groups.collapse),
    Rule("truncated-prompts", ("data/truncated_prompts",), groups.truncated),
    Rule("reward-falls", ("reward/mean",), reward.falls),
    Rule("reward-flat", ("reward/mean",), reward.flat),
    Rule("terms-apart", ("reward/<term>/mean",), reward.apart),
    Rule(
        "held-out-falls",
        ("eval/score", "eval/accuracy", "eval/<term>", "reward/mean", "reward/<term>/std"),
        reward.held_out,
    ),
    Rule("weights-constant", ("trust/weight_std",), trust_maps.weights_constant),
    Rule("few-effective-groups", ("trust/effective_groups",), trust_maps.few_groups),
    Rule("order-inverted", ("trust/inverted_fraction",), trust_maps.order),
    Rule("maps-failed", ("map/failed",), trust_maps.maps_failed),
    Rule("map-narrow", ("map/entropy",), trust_maps.map_narrow),
    Rule("steps-slower", ("time/step",), machine.slower),
    Rule("memory-grows", ("memory/max_gib",), machine.leak),
    Rule("pictures-unlike", DEVIATIONS, sentinels.pictures_unlike),
    Rule("held-out-apart", DEVIATIONS, sentinels.held_out_apart),
)


def symptoms(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Finding]:
    """What a run shows that a healthy one does not, by step; [] for a healthy run.

    rows: of metrics.jsonl by step. config: config.yaml as nested mapping. Both may lack anything: a rule
    without its metric says nothing. Each finding has the first step where it shows, the metric that it was
    read from as `source`, and what was read there as numbers["value"].
    """
    history = RunHistory(rows, config)
    findings = [replace(finding, name=rule.name) for rule in RULES for finding in rule.look(history)]
    return sorted(findings, key=lambda f: (f.step or 0, f.severity is not Severity.failure, f.name))


def limits(config: Mapping[str, Any]) -> dict[str, Range]:
    """Metric key -> (lowest, highest) healthy value, None where that side is open, for this configuration."""
    history = RunHistory([], config)
    ranges: dict[str, Range] = {
        "ratio/max_deviation_first": (None, history.clip / 4),
        "ratio/max_deviation": (None, update.far(history)),
        "kl/approx": (None, update.KL_APPROX),
        "kl/reference": (None, update.KL_REFERENCE),
        "group/zero_variance_fraction": (None, groups.ZERO_VARIANCE),
        "reward/valid_fraction": (1.0 - groups.INVALID, None),
        "reward/invalid_count": (None, 0.0),
        "data/truncated_prompts": (None, 0.0),
    }
    updates = int(history.setting("train.updates_per_step", 2))
    if updates > 1:
        share = update.CLIPPED * (updates - 1) / updates
        ranges |= {"clip/fraction_high": (None, share), "clip/fraction_low": (None, share)}
    if history.setting("trust.kind", "none") != "none" and history.setting("data.prompts_per_step"):
        least = trust_maps.EFFECTIVE * float(history.setting("data.prompts_per_step"))
        ranges["trust/effective_groups"] = (least, None)
    if history.setting("trust.crt.form", "none") != "none":
        ranges["trust/inverted_fraction"] = (None, trust_maps.INVERTED)
    if history.setting("advantage.map.source", "none") != "none":
        ranges |= {"map/entropy": (trust_maps.ENTROPY, None), "map/failed": (None, 0.0)}
    return ranges | sentinels.limits(history)
