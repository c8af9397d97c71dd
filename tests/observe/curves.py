"""Curves of a healthy run, as metrics.jsonl has them, and a configuration that fits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "model": {"dtype": "float32", "height": 32, "width": 32},
    "advantage": {"clip_range": None, "ratio_scope": "sample", "kl_beta": 0.0, "sign": 1.0},
    "reward": {"terms": {"checker": {"weight": 1.0}}},
    "data": {"prompts_per_step": 12, "samples_per_prompt": 8},
    "train": {"steps": 120, "updates_per_step": 2},
    "optim": {"lr": 2e-4},
    "eval": {"prompts": None, "samples": 10},
}
Row = dict[str, Any]


def healthy(steps: int = 120, seed: int = 0, sign: float = 1.0) -> list[Row]:
    """Curves as those of the tiny image policy: the reward rises from 0.77 to 0.9, or falls to 0.03."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = [{"step": 0, "eval/score": 0.81, "eval/accuracy": 0.6, "time/eval": 12.0}]
    for i in range(1, steps + 1):
        done = 1 - math.exp(-i / 50)
        mean = 0.77 + 0.14 * done if sign > 0 else 0.77 * math.exp(-i / 20)
        spread = 0.18 - 0.08 * done if sign > 0 else 0.26 * math.exp(-i / 30)
        rows.append(
            {
                "step": i,
                "reward/mean": mean + 0.03 * rng.normal(),
                "reward/std": 0.2,
                "reward/checker/mean": mean + 0.03 * rng.normal(),
                "reward/checker/std": spread,
                "reward/valid_fraction": 1.0,
                "reward/invalid_count": 0.0,
                "group/std_mean": spread * (1 + 0.1 * rng.normal()),
                "group/zero_variance_fraction": 0.0,
                "ratio/max_deviation_first": 0.0,
                "ratio/max_deviation": 1e-3 * math.exp(0.7 * rng.normal()),
                "clip/fraction_high": 0.12 + 0.03 * rng.random(),
                "clip/fraction_low": 0.13 + 0.03 * rng.random(),
                "kl/approx": 1e-8 * (1 + 3 * done) * math.exp(0.5 * rng.normal()),
                "update/loss": 1e-5 * rng.normal(),
                "update/grad_norm": 0.02 * (1 + 0.5 * done) * math.exp(0.1 * rng.normal()),
                "update/optimizer_steps": 2.0,
                "data/truncated_prompts": 0.0,
                "time/step": 1.2 * (3.0 if 30 < i < 40 else 1.0),
                "memory/max_gib": 20.0 if i < 4 else 22.0,
            }
        )
        if i % 40 == 0:
            rows[-1] |= {"eval/score": 0.81 + sign * 0.1 * done + 0.005 * rng.normal(), "eval/accuracy": 0.6}
    return rows


def config_with(*path: str, **values: Any) -> dict[str, Any]:
    """CONFIG with values set in a section."""
    (section,) = path
    return {**CONFIG, section: {**CONFIG.get(section, {}), **values}}
