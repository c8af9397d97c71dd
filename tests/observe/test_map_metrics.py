"""map/* from maps: over the free positions, joined over ranks."""

from __future__ import annotations

import math

import pytest
import torch

from rlvis.observe.metric_table import check
from rlvis.observe.metrics import map_metrics


def test_over_the_free_positions() -> None:
    free = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    maps = torch.tensor([[[[1.0, 1.0], [1.0, 9.0]]], [[[0.0, 0.5], [0.5, 9.0]]]])
    got = map_metrics(maps, free, 1)
    check(got)
    assert got == pytest.approx(
        {
            "map/entropy": (1 + math.log(2) / math.log(3)) / 2,
            "map/mean": (1 + 1 / 3) / 2,
            "map/max": 1.0,
            "map/failed": 1.0,
        }
    )


def test_ranks_with_unequal_rows_count_by_rows() -> None:
    maps = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    free = torch.ones(1, 3, 3)
    reduced: list[list[torch.Tensor]] = [[], []]
    for part in (maps[:4], maps[4:], maps[:0]):
        calls = iter(reduced)

        def keep(values: torch.Tensor, how: str, calls=calls) -> torch.Tensor:
            next(calls).append(values)
            return values

        map_metrics(part, free, 0, keep)
    joined = iter([sum(reduced[0]), torch.stack(reduced[1]).amax(0)])
    assert map_metrics(maps[:4], free, 0, lambda values, how: next(joined)) == pytest.approx(
        map_metrics(maps, free, 0)
    )


def test_no_rows_and_one_position() -> None:
    assert map_metrics(torch.zeros(0, 1, 2, 2), torch.ones(1, 2, 2), 0) == {}
    assert map_metrics(torch.ones(2, 1, 1, 1), torch.ones(1, 1, 1), 0)["map/entropy"] == 1.0
