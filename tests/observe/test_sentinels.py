"""Baselines, thresholds, patience and the two sides; a state that is saved and read decides alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlvis.findings import Finding
from rlvis.observe import metric_table, sentinel_table, sentinels
from rlvis.observe.sentinels import Judged, Observation, Watch
from rlvis.record_base import equal
from rlvis.schema import SentinelConfig

CONFIG = SentinelConfig(baseline=8, threshold=6.0, patience=3)


def alarms_of(
    values: list[float], name: str = "saturation", config: SentinelConfig = CONFIG
) -> list[Finding]:
    """The alarms of a run in which one statistic takes these values."""
    watch, alarms = Watch(), []
    for step, value in enumerate(values, 1):
        judged = sentinels.judge(watch, Observation(pictures={name: value}), step, config)
        watch = judged.watch
        alarms += judged.alarms
    return alarms


def usual(n: int, mean: float = 0.2, spread: float = 0.02, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, spread, n).tolist()


def test_an_alarm_after_patience_steps_and_not_before() -> None:
    [alarm] = alarms_of([*usual(12), 0.5, 0.5, 0.5, 0.5])
    assert (alarm.step, alarm.numbers["since"], alarm.name) == (15, 13, "saturation")
    assert alarm.numbers["deviation"] > 6
    assert "saturation is 0.5 of full scale and was 0.2" in alarm.what
    assert "since step 13 (alarm: 6 in 3 steps in a row)" in alarm.what
    assert "garish" in alarm.why
    assert alarms_of([*usual(12), 0.5, 0.5, 0.2, 0.5, 0.5]) == []  # never three in a row


def test_it_comes_again_while_it_lasts() -> None:
    alarms = alarms_of([*usual(8), *[0.9] * 20])
    assert [alarm.step for alarm in alarms] == [11, 19, 27]
    assert {alarm.numbers["since"] for alarm in alarms} == {9}
    back = alarms_of([*usual(8), *[0.9] * 4, *usual(4), *[0.9] * 4])
    assert [(alarm.step, alarm.numbers["since"]) for alarm in back] == [(11, 9), (19, 17)]


def test_a_number_that_hardly_moves_is_no_alarm() -> None:
    assert alarms_of([0.2] * 30) == []
    assert alarms_of([*[0.2] * 15, *[0.23] * 15]) == []  # 15 % of a statistic that never moved at all
    assert alarms_of([*[0.0] * 15, *[0.02] * 15]) == []
    assert len(alarms_of([*[0.2] * 15, *[0.1] * 3])) == 1


def test_only_the_sides_that_count() -> None:
    for name in ("spectral_peak", "flicker"):
        assert alarms_of([*usual(10, 0.9, 0.01), *[0.2] * 9], name) == []
    assert alarms_of([*usual(10, 0.1, 0.01), *[0.5] * 9], "diversity") == []
    assert len(alarms_of([*usual(10, 0.1, 0.01), *[0.01] * 3], "diversity")) == 1
    assert len(alarms_of([*usual(10, 3.0, 0.3), *[12.0] * 3], "spectral_peak")) == 1
    [alarm] = alarms_of([*usual(10, 0.1, 0.005), *[0.01] * 3], "edge_density")
    assert alarm.numbers["deviation"] < 0
    assert "blur" in alarm.why


def test_false_alarms_of_plain_noise_are_rare() -> None:
    runs = [alarms_of(usual(60, seed=seed)) for seed in range(100)]
    assert sum(bool(alarms) for alarms in runs) <= 1
    loose = replace(CONFIG, threshold=2.0, patience=1)
    assert (
        sum(bool(alarms_of(usual(60, seed=seed), config=loose)) for seed in range(20)) > 10
    )  # they can come


def watched(
    trained: list[float], held: list[float], config: SentinelConfig = CONFIG
) -> tuple[list[Finding], Judged]:
    watch, alarms = Watch(), []
    for step, (a, b) in enumerate(zip(trained, held, strict=True), 1):
        judged = sentinels.judge(watch, Observation(trained=a, held_out={"reward_clip": b}), step, config)
        watch = judged.watch
        alarms += judged.alarms
    return alarms, judged


def test_a_held_out_reward_that_falls_while_the_trained_one_rises() -> None:
    flat, noise = usual(40, 0.5, 0.01), np.array(usual(40, 0.0, 0.01, seed=2))
    slope = np.concatenate([np.zeros(8), np.linspace(0, 0.3, 32)])
    alarms, _ = watched((0.5 + slope + noise).tolist(), (np.array(flat) - slope).tolist())
    assert alarms
    assert alarms[0].name == "reward_clip"
    assert "held-out reward clip fell from 0.5" in alarms[0].what
    same, _ = watched(flat, (np.array(flat) - slope).tolist())  # the trained one does not rise
    assert same == []
    both, last = watched((0.5 + slope + noise).tolist(), (np.array(flat) + slope).tolist())
    assert both == []
    assert last.deviations["reward_clip"] > 6


def test_an_evaluation_that_falls_from_its_best() -> None:
    def run(scores: dict[int, float]) -> list[Finding]:
        watch, alarms = Watch(), []
        rising = np.random.default_rng(0).normal(0, 0.01, 41) + np.arange(41) * 0.02
        for step in range(41):
            trained = float(rising[step]) if step else None
            observation = Observation(trained=trained, evaluated=scores.get(step), unit=0.01)
            judged = sentinels.judge(watch, observation, step, CONFIG)
            watch = judged.watch
            alarms += judged.alarms
        return alarms

    assert run({0: 0.5, 10: 0.52, 20: 0.55, 30: 0.54, 40: 0.53}) == []
    [alarm] = run({0: 0.5, 10: 0.52, 20: 0.6, 30: 0.5, 40: 0.4})
    assert (alarm.step, alarm.numbers["since"], alarm.numbers["usual"]) == (40, 30, 0.6)
    assert "2 evaluations in a row" in alarm.what


@pytest.mark.parametrize("cut", [3, 9, 14, 20])
def test_a_saved_state_goes_on_exactly(tmp_path: Path, cut: int) -> None:
    values = [*usual(12), *[0.5] * 12]
    trained, held = usual(24, seed=3), usual(24, seed=4)

    def go(watch: Watch, steps: range) -> tuple[Watch, list[object]]:
        judgements: list[object] = []
        for i in steps:
            observation = Observation(
                pictures={"saturation": values[i]}, trained=trained[i], held_out={"reward_b": held[i]}
            )
            judged = sentinels.judge(watch, observation, i + 1, CONFIG)
            watch = judged.watch
            judgements.append((judged.deviations, judged.alarms))
        return watch, judgements

    _, whole = go(Watch(), range(24))
    watch, first = go(Watch(), range(cut))
    watch.replace(lr_scale=0.5, rollbacks=1).save(tmp_path / "sentinels")
    read = Watch.load(tmp_path / "sentinels")
    assert (read.lr_scale, read.rollbacks) == (0.5, 1)
    _, second = go(read, range(cut, 24))
    assert [*first, *second] == whole


def test_a_state_with_fields_that_are_gone_is_read(tmp_path: Path) -> None:
    watch = Watch(lr_scale=0.5)
    watch.save(tmp_path / "sentinels")
    path = tmp_path / "sentinels.json"
    document = json.loads(path.read_text())
    document["fields"] |= {"kl_beta": 0.02, "raised": 7}
    path.write_text(json.dumps(document))
    assert equal(Watch.load(tmp_path / "sentinels"), watch)


def test_a_step_without_a_statistic_changes_nothing() -> None:
    watch = Watch()
    for step, value in enumerate([*usual(8), 0.5, 0.5], 1):
        watch = sentinels.judge(watch, Observation(pictures={"saturation": value}), step, CONFIG).watch
    empty = sentinels.judge(watch, Observation(), 11, CONFIG)
    assert (empty.alarms, empty.deviations) == ([], {})
    assert (
        len(sentinels.judge(empty.watch, Observation(pictures={"saturation": 0.5}), 12, CONFIG).alarms) == 1
    )


def test_metric_keys_are_in_the_table() -> None:
    alarms = sentinels.keys({"saturation": 1.0, "reward_clip": -2.0, "eval_score": 0.0}, [])
    metric_table.check(alarms)
    metric_table.check([f"sentinel/{name}" for name in sentinel_table.KINDS])
    assert alarms["sentinel/alarms"] == 0
