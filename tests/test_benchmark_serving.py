"""The serving benchmark on one layer: both ways give equal scores, and its page says what it measured."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import environment, serving
from benchmarks.scorers import Tower


def test_bare_and_served_are_compared_on_equal_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVIS_TOKEN", serving.TOKEN)
    case = serving.throughput("one layer", Tower(1), 40, 2, 2, 1)
    assert case["equal"]
    assert case["share"]["median"] > 0
    way = {"rollout": 2.0, "scorers": 1.0, "wall": 2.25, "over_longer": 1.125, "over_sum": 0.75}
    result = {
        "environment": environment.describe(torch.device("cpu")),
        "rounds": 1,
        "throughput": [case],
        "overlap": [{"share": 0.5, "rows": 96, "shards": 12, "ways": {"thread": way}}],
        "seconds_in_all": 1.0,
    }
    page = serving.markdown(json.loads(json.dumps(result)))
    assert "| one layer | 4 of 40 x 40 in batches of 2 |" in page
    assert "## Overlap, scoring 50% of the rollout" in page
    assert "| thread | 2.00 | 1.00 | 2.25 | 1.125 | 0.750 |" in page


def test_medians_are_of_ratios_within_a_step() -> None:
    rounds = [{"rollout": r, "score": s, "scorers": b} for r, s, b in ((2, 1, 2), (4, 0.4, 4), (1, 1, 4))]
    summary = serving.medians(rounds)
    assert summary["over_longer"] == pytest.approx(1.1)  # of 1.5, 1.1, 0.5
    assert summary["over_sum"] == pytest.approx(0.55)  # of 0.75, 0.55, 0.4
