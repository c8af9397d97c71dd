"""The default run goes as it went when tests/reference/default.json was written; wrong formulas show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlvis.advantage import normalise
from rlvis.cli import one_run
from rlvis.schema import AdvantagePreset
from scripts import reference_curve
from scripts.reference_curve import CLOSE, NEAR, STEPS, differences, read, replay


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "write_report", lambda run_dir: None)


def test_the_file_holds_every_number_of_every_step() -> None:
    content = read()
    assert [row["step"] for row in content["steps"]] == list(range(1, STEPS + 1))
    assert all(row.keys() == {"step", *CLOSE} for row in content["steps"])
    assert {"python", "torch", "deepspeed"} <= content["versions"].keys()
    assert content["hardware"]["threads"] == 1
    first, last = content["steps"][:10], content["steps"][-10:]
    assert sum(row["reward/mean"] for row in last) - sum(row["reward/mean"] for row in first) > 0.5


def test_the_first_five_steps_are_the_stored_ones() -> None:
    assert differences(replay(5)[0], read()["steps"]) == []


def test_another_clip_range_is_another_curve() -> None:
    lines = differences(replay(1, ["advantage.clip_range=1e-3"])[0], read()["steps"])
    assert any("step 1: update/loss" in line for line in lines), lines


def test_a_spread_with_another_divisor_is_another_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = normalise.RULES[AdvantagePreset.flow_grpo]
    monkeypatch.setitem(normalise.RULES, AdvantagePreset.flow_grpo, replace(rule, ddof=1 - rule.ddof))
    lines = differences(replay(1)[0], read()["steps"])
    assert any("step 1: update/grad_norm" in line for line in lines), lines


def test_a_difference_names_step_key_and_both_values() -> None:
    stored = read()["steps"]
    row = stored[1] | {"reward/mean": stored[1]["reward/mean"] + 0.01}
    (line,) = differences([stored[0], row], stored)
    assert line.startswith(f"step 2: reward/mean is {row['reward/mean']:.7g}, stored ")
    assert line.endswith("off by 1.0e-02 where 1.0e-04 is allowed")
    later = [*stored[:NEAR], stored[NEAR] | {"reward/mean": stored[NEAR]["reward/mean"] + 0.01}]
    assert differences(later, stored) == []
    assert reference_curve.FILE.is_file()
