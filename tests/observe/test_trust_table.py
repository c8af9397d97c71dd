"""trust.jsonl: the numbers of a row against hand-made ones, what is None, and the cut at a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.observe import trust_table
from rlvis.records import PriorState, PromptBatch, Rewards, Trust
from rlvis.schema import Combine, PriorConfig, TrustConfig
from rlvis.trust import ras
from rlvis.trust.stage import weigh

SUM, SEPARATE = Combine.weighted_sum, Combine.separate_terms
NAN = math.nan


def rewards(values: list[Any], weights: tuple[float, ...] = (1.0,)) -> Rewards:
    term = torch.tensor(values, dtype=torch.float64)
    valid = torch.isfinite(term).all(-1)
    return Rewards(
        term=term,
        names=("a", "b")[: len(weights)],
        weights=weights,
        valid=valid,
        latency=(0.0,) * len(weights),
    )


def prompts(*index: int) -> PromptBatch:
    texts = tuple(f'"{i}"\n\u2028' for i in index)
    return PromptBatch(index=torch.tensor(index), texts=texts, metadata=tuple({} for _ in index))


def trusted(scores: Rewards, batch: PromptBatch, combine: Combine, **trust: Any) -> Trust:
    config = TrustConfig(**{"kind": "posterior"} | trust)
    prior = PriorConfig(kind="constant", value=0.0)
    return weigh(scores, PriorState(kind="constant"), config, prior, combine, batch)[0]


def test_the_pinned_posterior() -> None:
    scores, batch = rewards([[[4.0], [5.0], [6.0], [NAN]]]), prompts(9)
    trust = trusted(scores, batch, SUM)
    (row,) = trust_table.rows(trust, scores, batch, 3, SUM, posterior=True)
    assert row == {
        "step": 3,
        "prompt": 9,
        "text": batch.texts[0],
        "objective": "sum",
        "count": 3,
        "mean": 5.0,
        "std": 1.0,
        "prior_mean": 0.0,
        "prior_var": 1.0,
        "prior_count": 1.0,
        "weight": float(trust.weight[0, 0]),
        "posterior_mean": 3.75,  # 5 n / (n + 1), n = 3
    }


def test_the_posterior_mean_is_the_one_of_the_weight() -> None:
    values = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores, batch = rewards(values.tolist()), prompts(0, 1, 2, 3)
    trust = trusted(scores, batch, SUM)
    rows = trust_table.rows(trust, scores, batch, 1, SUM, posterior=True)
    mean, var = values.mean(1), values.var(1)
    wanted, _ = ras.posterior_moments(mean, var, torch.full((4, 1), 6.0), torch.zeros(4, 1), torch.ones(4, 1))
    means = torch.tensor([row["posterior_mean"] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(means, wanted[:, 0].double(), rtol=1e-7, atol=1e-8)  # 1e-8: the form's floor


def test_objectives_are_rewards_or_their_sum() -> None:
    scores = rewards([[[1.0, 10.0], [3.0, 30.0]]], weights=(1.0, 0.5))
    batch = prompts(2)
    both = trust_table.rows(trusted(scores, batch, SEPARATE), scores, batch, 1, SEPARATE)
    assert [(row["objective"], row["mean"]) for row in both] == [("a", 2.0), ("b", 20.0)]
    (one,) = trust_table.rows(trusted(scores, batch, SUM), scores, batch, 1, SUM)
    assert (one["objective"], one["mean"]) == ("sum", 12.0)
    assert "posterior_mean" not in one


def test_what_does_not_exist_is_none() -> None:
    scores, batch = rewards([[[NAN], [NAN]], [[1.0], [NAN]]]), prompts(0, 1)
    none, single = trust_table.rows(trusted(scores, batch, SUM), scores, batch, 1, SUM, posterior=True)
    assert (none["count"], none["mean"], none["std"], none["posterior_mean"]) == (0, None, None, None)
    assert (none["weight"], none["prior_mean"]) == (1.0, 0.0)
    assert (single["count"], single["mean"], single["std"], single["posterior_mean"]) == (1, 1.0, None, None)
    plain = Trust(weight=torch.ones(2, 1, dtype=torch.float64), contrast_replaces=False)
    row = trust_table.rows(plain, scores, batch, 1, SUM, posterior=True)[1]
    assert row["prior_mean"] is row["prior_var"] is row["prior_count"] is row["posterior_mean"] is None


def test_a_resumed_run_writes_its_steps_once(tmp_path: Path) -> None:
    scores, batch = rewards([[[1.0], [2.0]], [[0.0], [2.0]]]), prompts(4, 5)
    trust = trusted(scores, batch, SUM)
    trust_table.resume(tmp_path, 2)  # nothing there yet
    for step in (1, 2, 3):
        trust_table.append(tmp_path, trust_table.rows(trust, scores, batch, step, SUM))
    path = tmp_path / "trust.jsonl"
    with path.open("a") as file:
        file.write('{"step": 4, "pro')
    trust_table.resume(tmp_path, 3)
    trust_table.append(tmp_path, trust_table.rows(trust, scores, batch, 3, SUM))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["prompt"]) for row in rows] == [(s, p) for s in (1, 2, 3) for p in (4, 5)]
    assert rows[0]["text"] == batch.texts[0]


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    trust_table.append(tmp_path, [{"step": 1, "mean": math.inf, "std": None}])
    text = (tmp_path / "trust.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "mean": "Infinity", "std": None}
