"""Reductions: merging micro-batches and ranks gives what one big batch would have given."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvis.observe import values as v

numbers = st.lists(st.integers(-1000, 1000), min_size=1, max_size=12)


@given(numbers, st.integers(0, 12))
def test_two_parts_reduce_to_the_whole(xs: list[int], cut: int) -> None:
    def tally(part: list[int]) -> dict[str, v.Value]:
        t = torch.tensor(part, dtype=torch.float64)
        return {"m": v.Mean.of(t), "hi": v.Max.of(t), "lo": v.Min.of(t), "s": v.Sum(float(sum(part)))}

    merged = v.results(v.merge([tally(xs[:cut]), tally(xs[cut:])]))
    assert merged == {"m": sum(xs) / len(xs), "hi": max(xs), "lo": min(xs), "s": sum(xs)}


def test_mean_weighs_by_count_not_by_part() -> None:
    merged = v.merge([{"a": v.Mean(10.0, 1)}, {"a": v.Mean(0.0, 3)}])
    assert merged["a"].result() == 2.5


def test_weighted_mean_ignores_nan_where_the_weight_is_zero() -> None:
    value = v.Mean.of(torch.tensor([[1.0, 3.0], [math.nan, math.inf]]), torch.tensor([[1.0], [0.0]]))
    assert (value.sum, value.count) == (4.0, 2.0)


def test_last_is_the_later_and_what_saw_nothing_is_left_out() -> None:
    merged = v.merge(
        [{"lr": v.Last(1.0), "m": v.Mean(), "x": v.Max()}, {"lr": v.Last(2.0), "m": v.Mean(), "x": v.Max()}]
    )
    assert v.results(merged) == {"lr": 2.0}


@pytest.mark.parametrize("kind", [v.Max, v.Min])
@pytest.mark.parametrize("order", [(1.0, math.nan), (math.nan, 1.0)])
def test_nan_does_not_hide_behind_an_extreme(
    kind: type[v.Max] | type[v.Min], order: tuple[float, float]
) -> None:
    merged = v.merge([{"a": kind(x)} for x in order])
    assert math.isnan(v.results(merged)["a"])


def test_one_key_cannot_have_two_reductions() -> None:
    with pytest.raises(ValueError, match="cannot merge Mean with Max"):
        v.merge([{"a": v.Mean(1, 1)}, {"a": v.Max(1)}])


def test_vector_round_trip_keeps_every_digit() -> None:
    values = {"b": v.Mean(0.1 + 0.2, 3), "a": v.Max(), "c": v.Last(1e-300), "d": v.Min(math.nan)}
    back = v.from_vector(v.to_vector(values), values)
    assert back["b"] == values["b"]
    assert back["a"] == v.Max()
    assert back["c"] == values["c"]
    assert math.isnan(back["d"].value)


def test_reduce_over_ranks_uses_one_collective() -> None:
    ranks = [
        {"m": v.Mean(1.0, 1), "x": v.Max(0.5)},
        {"m": v.Mean(), "x": v.Max()},
        {"m": v.Mean(5.0, 2), "x": v.Max(-1.0)},
    ]
    calls = []

    def gather(row: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(row.shape))
        return torch.stack([v.to_vector(values) for values in ranks])

    assert [v.reduce(values, gather) for values in ranks] == [{"m": 2.0, "x": 0.5}] * 3
    assert calls == [(1, 4)] * 3
    assert v.reduce(ranks[0]) == {"m": 1.0, "x": 0.5}


def test_other_keys_on_another_rank_are_noticed() -> None:
    other = v.to_vector({"n": v.Mean(1, 1)})
    with pytest.raises(ValueError, match="differ between ranks"):
        v.from_vector(other, {"m": v.Mean(1, 1)})
