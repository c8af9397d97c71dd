"""Baselines, thresholds, patience and the two sides; a state that is saved and read decides alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlvis.observe import sentinels
from rlvis.observe.sentinels import Alarm, Judged, Seen, Watch
from rlvis.schema import SentinelConfig

CONFIG = SentinelConfig(baseline=8, threshold=6.0, patience=3)


def told(values: list[float], name: str = "saturation", config: SentinelConfig = CONFIG) -> list[Alarm]:
    """The alarms of a run in which one statistic takes these values."""
    watch, found = Watch(), []
    for step, value in enumerate(values, 1):
        judged = sentinels.judge(watch, Seen(pictures={name: value}), step, config)
        watch = judged.watch
        found += judged.alarms
    return found


def usual(n: int, mean: float = 0.2, spread: float = 0.02, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, spread, n).tolist()


def test_an_alarm_after_patience_steps_and_not_before() -> None:
    [alarm] = told([*usual(12), 0.5, 0.5, 0.5, 0.5])
    assert (alarm.step, alarm.since, alarm.statistic) == (15, 13, "saturation")
    assert alarm.deviation > 6
    assert "saturation is 0.5 of full scale and was 0.2" in alarm.what
    assert "since step 13 (alarm: 6 in 3 steps in a row)" in alarm.what
    assert "garish" in alarm.why
    assert told([*usual(12), 0.5, 0.5, 0.2, 0.5, 0.5]) == []  # never three in a row


def test_it_comes_again_while_it_lasts() -> None:
    found = told([*usual(8), *[0.9] * 20])
    assert [alarm.step for alarm in found] == [11, 19, 27]
    assert {alarm.since for alarm in found} == {9}
    back = told([*usual(8), *[0.9] * 4, *usual(4), *[0.9] * 4])
    assert [(alarm.step, alarm.since) for alarm in back] == [(11, 9), (19, 17)]


def test_a_number_that_hardly_moves_is_no_alarm() -> None:
    assert told([0.2] * 30) == []
    assert told([*[0.2] * 15, *[0.23] * 15]) == []  # 15 % of a statistic that never moved at all
    assert told([*[0.0] * 15, *[0.02] * 15]) == []
    assert len(told([*[0.2] * 15, *[0.1] * 3])) == 1


def test_only_the_sides_that_count() -> None:
    for name in ("spectral_peak", "flicker"):
        assert told([*usual(10, 0.9, 0.01), *[0.2] * 9], name) == []
    assert told([*usual(10, 0.1, 0.01), *[0.5] * 9], "diversity") == []
    assert len(told([*usual(10, 0.1, 0.01), *[0.01] * 3], "diversity")) == 1
    assert len(told([*usual(10, 3.0, 0.3), *[12.0] * 3], "spectral_peak")) == 1
    [alarm] = told([*usual(10, 0.1, 0.005), *[0.01] * 3], "edge_density")
    assert alarm.deviation < 0
    assert "blur" in alarm.why


def test_false_alarms_of_plain_noise_are_rare() -> None:
    runs = [told(usual(60, seed=seed)) for seed in range(100)]
    assert sum(bool(found) for found in runs) <= 1
    loose = replace(CONFIG, threshold=2.0, patience=1)
    assert sum(bool(told(usual(60, seed=seed), config=loose)) for seed in range(20)) > 10  # they can come


def watched(
    trained: list[float], held: list[float], config: SentinelConfig = CONFIG
) -> tuple[list[Alarm], Judged]:
    watch, found = Watch(), []
    for step, (a, b) in enumerate(zip(trained, held, strict=True), 1):
        judged = sentinels.judge(watch, Seen(trained=a, held_out={"reward_clip": b}), step, config)
        watch = judged.watch
        found += judged.alarms
    return found, judged


def test_a_held_out_reward_that_falls_while_the_trained_one_rises() -> None:
    flat, noise = usual(40, 0.5, 0.01), np.array(usual(40, 0.0, 0.01, seed=2))
    slope = np.concatenate([np.zeros(8), np.linspace(0, 0.3, 32)])
    found, _ = watched((0.5 + slope + noise).tolist(), (np.array(flat) - slope).tolist())
    assert found
    assert found[0].statistic == "reward_clip"
    assert "held-out reward clip fell from 0.5" in found[0].what
    same, _ = watched(flat, (np.array(flat) - slope).tolist())  # the trained one does not rise
    assert same == []
    both, last = watched((0.5 + slope + noise).tolist(), (np.array(flat) + slope).tolist())
    assert both == []
    assert last.deviations["reward_clip"] > 6


def test_an_evaluation_that_falls_from_its_best() -> None:
    def run(scores: dict[int, float]) -> list[Alarm]:
        watch, found = Watch(), []
        rising = np.random.default_rng(0).normal(0, 0.01, 41) + np.arange(41) * 0.02
        for step in range(41):
            trained = float(rising[step]) if step else None
            seen = Seen(trained=trained, evaluated=scores.get(step), unit=0.01)
            judged = sentinels.judge(watch, seen, step, CONFIG)
            watch = judged.watch
            found += judged.alarms
        return found

    assert run({0: 0.5, 10: 0.52, 20: 0.55, 30: 0.54, 40: 0.53}) == []
    [alarm] = run({0: 0.5, 10: 0.52, 20: 0.6, 30: 0.5, 40: 0.4})
    assert (alarm.step, alarm.since, alarm.usual) == (40, 30, 0.6)
    assert "2 evaluations in a row" in alarm.what


@pytest.mark.parametrize("cut", [3, 9, 14, 20])
def test_a_saved_state_goes_on_exactly(tmp_path: Path, cut: int) -> None:
    values = [*usual(12), *[0.5] * 12]
    trained, held = usual(24, seed=3), usual(24, seed=4)

    def go(watch: Watch, steps: range) -> tuple[Watch, list[object]]:
        said: list[object] = []
        for i in steps:
            seen = Seen(
                pictures={"saturation": values[i]}, trained=trained[i], held_out={"reward_b": held[i]}
            )
            judged = sentinels.judge(watch, seen, i + 1, CONFIG)
            watch = judged.watch
            said.append((judged.deviations, judged.alarms))
        return watch, said

    _, whole = go(Watch(), range(24))
    watch, first = go(Watch(), range(cut))
    watch.replace(kl_beta=0.02, lr_scale=0.5, rollbacks=1, raised=7).save(tmp_path / "sentinels")
    read = Watch.load(tmp_path / "sentinels")
    assert (read.kl_beta, read.lr_scale, read.rollbacks, read.raised) == (0.02, 0.5, 1, 7)
    _, second = go(read, range(cut, 24))
    assert [*first, *second] == whole


def test_a_step_without_a_statistic_changes_nothing() -> None:
    watch = Watch()
    for step, value in enumerate([*usual(8), 0.5, 0.5], 1):
        watch = sentinels.judge(watch, Seen(pictures={"saturation": value}), step, CONFIG).watch
    empty = sentinels.judge(watch, Seen(), 11, CONFIG)
    assert (empty.alarms, empty.deviations) == ([], {})
    assert len(sentinels.judge(empty.watch, Seen(pictures={"saturation": 0.5}), 12, CONFIG).alarms) == 1


def test_metric_keys_are_in_the_table() -> None:
    from rlvis.observe import metrics

    found = sentinels.keys({"saturation": 1.0, "reward_clip": -2.0, "eval_score": 0.0}, [])
    metrics.check(found)
    metrics.check([f"sentinel/{name}" for name in sentinels.KINDS])
    assert found["sentinel/alarms"] == 0
