"""The benchmark of the sentinels: what it reads out of runs, and, slow, a run that is really hacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import sentinels
from rlvis.compose.command import compose
from rlvis.schema import SentinelConfig
from rlvis.training import loop
from rlvis.training.guard import SentinelStopError


def rows(values: list[float], rewards: list[float]) -> list[dict[str, float]]:
    pairs = enumerate(zip(values, rewards, strict=True), 1)
    return [
        {
            "step": i,
            "sentinel/saturation": a,
            "reward/mean": b,
            "time/sentinels": 0.01,
            "time/step": 1.0,
        }
        for i, (a, b) in pairs
    ]


def test_what_is_read_out_of_a_run() -> None:
    usual = np.random.default_rng(0).normal(0.2, 0.01, 20).tolist()
    rise = [*np.linspace(0, 0.5, 25).tolist(), *[0.5] * 10]
    hacked = rows([*usual, *[0.6] * 15], rise)
    config = SentinelConfig()
    assert sentinels.alarms(hacked, config) == {"saturation": 23}
    assert sentinels.largest(hacked, config)["saturation"] > 10
    assert sentinels.solid(hacked) == 24  # 95 % of the way to 0.5
    assert sentinels.solid(hacked[:25]) is None  # it was still rising
    assert sentinels.alarms(rows(usual, rise[:20]), config) == {}


def test_redness() -> None:
    media = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8)
    media[0, :, 0] = 255
    media[1] = 255
    assert sentinels.redness(media, None, None).tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_a_reward_that_a_red_screen_fools_is_stopped(tmp_path: Path) -> None:
    words = [
        *sentinels.RUNS["hack lr=6e-4"],
        "tracker.samples_every=0",
        "sentinels.action=stop",
        "doctor=off",
    ]
    config = compose([*words, f"run_dir={tmp_path / 'run'}", "engine.device=cpu"]).typed()
    with pytest.raises(SentinelStopError, match="saturation"):
        loop.train(config, [])
