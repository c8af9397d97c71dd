"""A short run of the embedded default learns, and unlearns when the advantage's sign is flipped.

The thresholds are mean - 3 sd (and mean + 3 sd for the flipped sign) of the rise over 10 seeds, measured by
`python -m benchmarks.learning` and kept in benchmarks/results.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.learning import RESULTS, SHORT, rise


def measured(sign: int) -> dict[str, float]:
    result = json.loads((RESULTS / f"learning_sign{sign:+d}.json").read_text())
    assert result["short"] == SHORT, "results of another run: python -m benchmarks.learning"
    return result


def test_the_thresholds_separate() -> None:
    assert measured(1)["threshold"] > 0 > measured(-1)["threshold"]


@pytest.mark.parametrize("seed", [100, *(pytest.param(s, marks=pytest.mark.slow) for s in range(101, 105))])
def test_the_reward_rises(seed: int) -> None:
    before, after = rise(seed, 1.0)
    assert after - before > measured(1)["threshold"]


@pytest.mark.parametrize("seed", [100, *(pytest.param(s, marks=pytest.mark.slow) for s in range(101, 105))])
def test_the_reward_falls_with_the_sign_flipped(seed: int) -> None:
    before, after = rise(seed, -1.0)
    assert after - before < measured(-1)["threshold"]
