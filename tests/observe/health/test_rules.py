"""Symptoms: none on healthy curves of any length, one with the right name and step on each sick one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from rlvis.findings import Finding, Severity
from rlvis.observe import metric_table
from rlvis.observe.health import RULES, limits, symptoms
from tests.observe.curves import CONFIG, Row, config_with, healthy


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 20, 60, 180])
def test_healthy_runs_show_nothing(steps: int, sign: float) -> None:
    for seed in range(8):
        assert symptoms(healthy(steps, seed, sign), config_with("advantage", sign=sign)) == []


def test_nothing_to_read_is_nothing_to_say() -> None:
    assert symptoms([], {}) == []
    assert symptoms([{"step": 1, "reward/mean": "NaN"}, {"step": 2}], {"advantage": None}) == []


def late(key: str, value: Any, since: int = 80) -> Callable[[list[Row]], None]:
    def spoil(rows: list[Row]) -> None:
        for row in rows[since:]:
            row[key] = value(row["step"]) if callable(value) else value

    return spoil


def both(*parts: Callable[[list[Row]], None]) -> Callable[[list[Row]], None]:
    def spoil(rows: list[Row]) -> None:
        for part in parts:
            part(rows)

    return spoil


def once(key: str, value: Any, at: int = 80) -> Callable[[list[Row]], None]:
    return lambda rows: rows[at].__setitem__(key, value)


def restless(step: int) -> float:
    """A reward that goes up and down around one level."""
    return 0.8 + 0.03 * math.sin(step * step)


FALLS = late("reward/mean", lambda s: 0.88 - 0.015 * (s - 80) + 0.02 * (-1) ** s)
SICK: dict[str, tuple[Callable[[list[Row]], None], str, tuple[int, int]]] = {
    "ratio-first": (once("ratio/max_deviation_first", 9e-5), Severity.failure, (80, 80)),
    "ratio-far": (once("ratio/max_deviation", 0.9), Severity.warning, (80, 80)),
    "clip-always": (
        both(late("clip/fraction_high", 0.26), late("clip/fraction_low", 0.24)),
        Severity.warning,
        (80, 90),
    ),
    "clip-never": (
        both(late("clip/fraction_high", 0.0, 1), late("clip/fraction_low", 0.0, 1)),
        Severity.warning,
        (10, 10),
    ),
    "kl-approx-grows": (late("kl/approx", lambda s: 1e-8 * 1.5 ** (s - 80)), Severity.warning, (90, 120)),
    "kl-reference-grows": (late("kl/reference", lambda s: 1e-3 * 1.1**s, 1), Severity.warning, (70, 90)),
    "gradient-not-finite": (once("update/grad_norm", "NaN"), Severity.failure, (80, 80)),
    "loss-not-finite": (once("update/loss", "Infinity"), Severity.failure, (80, 80)),
    "gradient-jump": (once("update/grad_norm", 0.5), Severity.warning, (80, 80)),
    "zero-variance": (late("group/zero_variance_fraction", 0.7), Severity.warning, (82, 90)),
    "reward-constant": (late("reward/checker/std", 0.0, 118), Severity.failure, (118, 118)),
    "invalid-samples": (once("reward/invalid_count", 3.0), Severity.warning, (80, 80)),
    "reward-falls": (FALLS, Severity.failure, (80, 110)),
    "reward-flat": (late("reward/mean", restless, 1), Severity.warning, (120, 120)),
    "held-out-falls": (late("eval/score", 0.7, 120), Severity.warning, (120, 120)),
    "spread-collapses": (
        both(late("group/std_mean", 0.01, 60), late("reward/mean", restless, 1)),
        Severity.warning,
        (60, 75),
    ),
    "truncated-prompts": (once("data/truncated_prompts", 2.0), Severity.warning, (80, 80)),
    "steps-slower": (late("time/step", 7.0), Severity.warning, (80, 105)),
    "memory-grows": (late("memory/max_gib", lambda s: 10 + s, 1), Severity.warning, (40, 45)),
}


@pytest.mark.parametrize("name", SICK)
def test_each_sickness_is_seen(name: str) -> None:
    spoil, severity, (low, high) = SICK[name]
    rows = healthy()
    spoil(rows)
    findings = {s.name: s for s in symptoms(rows, CONFIG)}
    assert name in findings, list(findings)
    assert findings[name].severity is severity
    step = findings[name].step
    assert step is not None
    assert low <= step <= high
    complete(findings[name])


def complete(symptom: Finding) -> None:
    """Numbers, cause and override are there, and the metric is one that its rule watches."""
    assert metric_table.find(symptom.source) is not None
    assert all((symptom.what, symptom.why, symptom.type, symptom.wanted))
    assert any(letter.isdigit() for letter in symptom.what)
    assert isinstance(symptom.numbers["value"], float)
    (rule,) = (rule for rule in RULES if rule.name == symptom.name)
    assert metric_table.find(symptom.source) in [metric_table.KEYS[key] for key in rule.watches]


def test_the_table_names_each_symptom_once_and_watches_metrics_that_exist() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(key in metric_table.KEYS for rule in RULES for key in rule.watches)
    assert all(rule.healthy.endswith(".") for rule in RULES)


def test_terms_that_part() -> None:
    rows = healthy()
    for row in rows[1:]:
        row["reward/sharp/mean"] = 0.5 - 0.002 * row["step"] + 0.01 * (-1) ** row["step"]
    config = config_with("reward", terms={"checker": {"weight": 1.0}, "sharp": {"weight": 0.5}})
    (symptom,) = symptoms(rows, config)
    assert (symptom.name, symptom.source) == ("terms-apart", "reward/sharp/mean")
    complete(symptom)
    turned = config_with("reward", terms={"checker": {"weight": 1.0}, "sharp": {"weight": -0.5}})
    assert symptoms(rows, turned) == []  # a negative weight wants it to fall


@pytest.mark.parametrize(
    ("name", "key", "value", "config"),
    [
        ("weights-constant", "trust/weight_std", 0.0, config_with("trust", kind="ras")),
        ("few-effective-groups", "trust/effective_groups", 2.0, config_with("trust", kind="ras")),
        ("order-inverted", "trust/inverted_fraction", 0.5, CONFIG),
        ("map-narrow", "map/entropy", 0.3, CONFIG),
        ("maps-failed", "map/failed", 1.0, CONFIG),
    ],
)
def test_trust_and_maps(name: str, key: str, value: float, config: dict[str, Any]) -> None:
    good = {"trust/weight_std": 0.1, "trust/effective_groups": 11.0, "trust/inverted_fraction": 0.05}
    good |= {"map/entropy": 0.9, "map/failed": 0.0}
    rows = [row | good for row in healthy()[1:]]
    assert symptoms(rows, config) == []
    late(key, value, 0)(rows)
    (symptom,) = symptoms(rows, config)
    assert symptom.name == name
    complete(symptom)


def test_what_to_type_follows_the_form_of_the_contrast() -> None:
    rows = [row | {"trust/inverted_fraction": 0.5} for row in healthy()[1:]]
    typed = {"exp": "trust.crt.monotone=true", "gated": "trust.crt.form=exp"}  # gated refuses monotone
    for form, words in typed.items():
        (symptom,) = symptoms(rows, config_with("trust", kind="none", crt={"form": form}))
        assert symptom.type.startswith(words)


def test_a_trust_whose_weights_are_all_one_says_nothing_without_a_trust() -> None:
    rows = [row | {"trust/weight_std": 0.0, "trust/effective_groups": 1.0} for row in healthy()]
    assert symptoms(rows, config_with("trust", kind="none")) == []


def test_a_ratio_that_is_off_by_rounding_is_suspicious_in_float32_only() -> None:
    rows = healthy(5)
    rows[2]["ratio/max_deviation_first"] = 1e-7
    (symptom,) = symptoms(rows, CONFIG)
    assert (symptom.name, symptom.severity) == ("ratio-first", Severity.warning)
    assert symptoms(rows, config_with("model", dtype="bfloat16")) == []
    assert (
        symptoms(rows, config_with("advantage", guard={"bias": "sample"})) == []
    )  # a bias that is 0 to rounding


def test_a_control_may_fall_but_not_rise() -> None:
    config = config_with("advantage", sign=-1.0)
    rows = healthy(120, sign=-1.0)
    late("group/zero_variance_fraction", 1.0, 90)(rows)
    assert symptoms(rows, config) == []  # it has lost all there was
    risen = healthy(120)
    assert "reward-falls" in {s.name for s in symptoms(risen, config)}


def test_a_saturated_reward_is_no_mode_collapse() -> None:
    rows = healthy()
    for row in rows[1:]:
        row["reward/mean"] = 0.3 + 0.69 * (1 - math.exp(-row["step"] / 15)) + 0.005 * math.sin(row["step"])
        row["group/std_mean"] = 0.2 * math.exp(-row["step"] / 30)
    assert symptoms(rows, CONFIG) == []


def test_many_lost_samples_are_broken() -> None:
    rows = [row | {"reward/valid_fraction": 0.9, "reward/invalid_count": 9.6} for row in healthy(4)]
    assert [(s.name, s.severity) for s in symptoms(rows, CONFIG)] == [("invalid-samples", Severity.failure)]


def test_symptoms_come_by_step() -> None:
    rows = healthy()
    once("update/grad_norm", 0.5, 100)(rows)
    once("reward/invalid_count", 1.0, 20)(rows)
    once("data/truncated_prompts", 1.0, 60)(rows)
    assert [s.step for s in symptoms(rows, CONFIG)] == [20, 60, 100]


def test_limits_follow_the_configuration() -> None:
    plain = limits(CONFIG)
    assert plain["ratio/max_deviation_first"] == (None, 7.5e-5)
    assert plain["clip/fraction_high"] == (None, 0.475)
    assert not any(key.startswith(("trust/", "map/")) for key in plain)
    assert limits(config_with("advantage", clip_range=[0.2, 0.4]))["ratio/max_deviation_first"] == (
        None,
        0.05,
    )
    assert "clip/fraction_high" not in limits(config_with("train", updates_per_step=1))
    assert limits(config_with("trust", kind="ras"))["trust/effective_groups"] == (3.0, None)
    assert limits(config_with("advantage", map={"source": "psm"}))["map/failed"] == (None, 0.0)
    assert limits({})  # a folder without a configuration
    for key in limits({**config_with("trust", kind="ras", crt={"form": "exp"})}):
        assert metric_table.find(key) is not None


def test_less_diversity_on_held_out_prompts_is_no_fall() -> None:
    rows = healthy()
    late("eval/diversity", 0.05, 120)(rows)
    rows[0]["eval/diversity"] = 0.14
    assert symptoms(rows, CONFIG) == []
