"""Symptoms from the deviations that the sentinels wrote, at the run's own threshold and patience."""

from __future__ import annotations

from typing import Any

from rlvis.findings import Severity
from rlvis.observe.health import limits, symptoms

CONFIG: dict[str, Any] = {"sentinels": {"baseline": 10, "threshold": 6.0, "patience": 3}}


def rows(deviations: list[float], name: str = "edge_density", value: str = "sentinel/edge_density") -> list:
    first = [{"step": i, value: 0.1} for i in range(1, 11)]
    later = enumerate(deviations, 11)
    return first + [{"step": i, value: 0.02, f"sentinel/{name}/deviation": d} for i, d in later]


def of(found: list, name: str) -> list:
    return [s for s in found if s.name == name]


def test_pictures_that_stay_unlike_the_first_are_a_symptom() -> None:
    [symptom] = symptoms(rows([0.0, -7.0, 1.0, -8.0, -9.0, -9.5, -9.0]), CONFIG)
    assert (symptom.name, symptom.severity, symptom.step) == ("pictures-unlike", Severity.warning, 16)
    assert symptom.source == "sentinel/edge_density/deviation"
    assert "edge density is 0.02 of the pixels and was 0.1" in symptom.what
    assert "since step 14" in symptom.what
    assert "blur" in symptom.why
    assert "before step 14" in symptom.type


def test_the_runs_own_numbers_count() -> None:
    sick = rows([-7.0, -7.0])
    assert symptoms(sick, CONFIG) == []
    [symptom] = symptoms(sick, {"sentinels": {"threshold": 5.0, "patience": 2, "baseline": 10}})
    assert symptom.step == 12
    assert symptoms(rows([-7.0] * 5), {"sentinels": {"threshold": 8.0}}) == []
    ranges = limits({"sentinels": {"threshold": 8.0}})
    assert ranges["sentinel/edge_density/deviation"] == (-8.0, 8.0)
    assert ranges["sentinel/spectral_peak/deviation"] == (None, 8.0)
    assert ranges["sentinel/diversity/deviation"] == (-8.0, None)


def test_sides_that_do_not_count_and_held_out_rewards() -> None:
    grid = rows([-20.0] * 5, "spectral_peak", "sentinel/spectral_peak")
    assert symptoms(grid, CONFIG) == []
    rises = rows([9.0] * 5, "reward_clip", "reward/clip/mean")
    assert of(symptoms(rises, CONFIG), "held-out-apart") == []
    [symptom] = of(symptoms(rows([-9.0] * 5, "reward_clip", "reward/clip/mean"), CONFIG), "held-out-apart")
    assert "held-out reward clip fell from 0.1 to 0.02" in symptom.what
