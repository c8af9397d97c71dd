"""Every method learns: a short run of the embedded default by the reward, whole runs by held-out prompts.

Short runs also unlearn when the advantage's sign is flipped. Their thresholds are mean - 3 sd (mean + 3 sd
for the flipped sign) of the rise over 10 seeds, measured by `python -m benchmarks.learning`; those of whole
runs are the same of the gain in held-out accuracy over the seeds of `python -m benchmarks.methods`. Both are
in benchmarks/results.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import methods
from benchmarks.learning import METHODS, SHORT, file_of, rise
from rlvis.schema import DEFAULT_CLIP_RANGE

OTHERS = tuple(method for method in METHODS if method != "grpo")
SEEDS = (0, 1, 2)  # of whole runs


def slow(*values: Any) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def measured(method: str = "grpo", sign: int = 1) -> dict[str, float]:
    result = json.loads(file_of(method, sign).read_text())
    assert result["short"] == SHORT, "results of another run: python -m benchmarks.learning"
    return result


def gains(method: str) -> dict[int, float]:
    """Seed -> gain in held-out accuracy of the whole run, as measured."""
    said = " ".join(methods.words(method, clip=DEFAULT_CLIP_RANGE))
    rows = [json.loads(line) for line in methods.ROWS.read_text().splitlines()]
    return {row["seed"]: gain(row) for row in rows if row["words"] == said and row["seed"] < 100}


def gain(row: dict[str, Any]) -> float:
    return row["accuracy"][-1] - row["accuracy"][0]


@pytest.mark.parametrize("method", METHODS)
def test_the_thresholds_separate(method: str) -> None:
    assert measured(method)["threshold"] > 0
    assert measured(sign=-1)["threshold"] < 0
    known = list(gains(method).values())
    assert len(known) >= 5
    assert np.mean(known) - 3 * np.std(known, ddof=1) > 0


@pytest.mark.parametrize("seed", [100, *slow(101, 102, 103, 104)])
def test_the_reward_rises(seed: int) -> None:
    before, after = rise(seed)
    assert after - before > measured()["threshold"]


@pytest.mark.parametrize("seed", [100, *slow(101, 102, 103, 104)])
def test_the_reward_falls_with_the_sign_flipped(seed: int) -> None:
    before, after = rise(seed, -1.0)
    assert after - before < measured(sign=-1)["threshold"]


@pytest.mark.parametrize("method", [*slow("bpgo", "vipo"), "bpgo_vipo"])
def test_the_reward_rises_with_every_method(method: str) -> None:
    before, after = rise(100, method=method)
    assert after - before > measured(method)["threshold"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", METHODS)
def test_a_whole_run_gains_on_held_out_prompts(method: str) -> None:
    """The mean over paired seeds, so a third of the variance of one run."""
    known = np.array(list(gains(method).values()))
    mean = np.mean(
        [gain(methods.run(methods.words(method, clip=DEFAULT_CLIP_RANGE), seed)) for seed in SEEDS]
    )
    assert mean > known.mean() - 3 * known.std(ddof=1) / np.sqrt(len(SEEDS))
