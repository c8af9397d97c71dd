"""The plan of an update: every kept row once, the same sets for any number of ranks, full batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.update.minibatch import MicroBatch, plan


def rng(seed=0):
    return np.random.default_rng(seed)


@st.composite
def masks(draw):
    p, k = draw(st.integers(1, 5)), draw(st.integers(5, 8))
    return torch.tensor(draw(st.lists(st.booleans(), min_size=p * k, max_size=p * k))).reshape(p, k)


def counted_rows(update, total):
    """Global rows of weight 1 of one optimizer step, over all ranks."""
    rows = []
    for rank, batches in enumerate(update.ranks):
        start = rank * total // len(update.ranks)
        for batch in batches:
            rows += [start + row for row, w in zip(batch.rows, batch.weights, strict=True) if w == 1.0]
    return rows


@settings(max_examples=80, deadline=None)
@given(keep=masks(), updates=st.integers(1, 4), micro=st.integers(1, 5), seed=st.integers(0, 99))
def test_properties(keep, updates, micro, seed):
    total, kept = keep.numel(), keep.flatten().nonzero().flatten().tolist()
    sets = []
    for world in range(1, 6):
        plans = plan(keep, updates, micro, world, rng(seed))
        assert sorted(row for u in plans for row in counted_rows(u, total)) == kept
        assert len(plans) == min(updates, len(kept))
        for update in plans:
            rows = counted_rows(update, total)
            assert update.count == len(rows) > 0
            assert len({len(batches) for batches in update.ranks}) == 1
            for rank, batches in enumerate(update.ranks):
                owned = (rank + 1) * total // world - rank * total // world
                assert all(len(b.rows) == len(b.weights) == micro for b in batches)
                assert all(0 <= row < owned for b in batches for row in b.rows)
                assert {w for b in batches for w in b.weights} <= {0.0, 1.0}
        sizes = [u.count for u in plans]
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
        sets.append([set(counted_rows(u, total)) for u in plans])
    assert all(s == sets[0] for s in sets)


@settings(max_examples=30, deadline=None)
@given(keep=masks(), updates=st.integers(1, 4))
def test_each_block_of_consecutive_rows_is_spread_over_the_steps(keep, updates):
    kept = keep.flatten().nonzero().flatten().tolist()
    plans = plan(keep, updates, 2, 1, rng())
    step_of = {row: i for i, u in enumerate(plans) for row in counted_rows(u, keep.numel())}
    for start in range(0, len(kept), updates):
        block = kept[start : start + updates]
        assert len({step_of[row] for row in block}) == len(block)


def test_by_hand_with_a_rank_that_has_nothing():
    keep = torch.tensor([[True, True, True], [False, False, False]])
    (update,) = plan(keep, 1, 2, 2, rng())
    assert update.ranks == (
        (MicroBatch((0, 1), (1.0, 1.0)), MicroBatch((2, 0), (1.0, 0.0))),
        (MicroBatch((0, 0), (0.0, 0.0)), MicroBatch((0, 0), (0.0, 0.0))),
    )
    assert update.count == 3


def test_padding_repeats_a_kept_row():
    keep = torch.tensor([[False, False, True, True]])
    first, second = plan(keep, 2, 2, 1, rng())
    assert {row for u in (first, second) for row in u.ranks[0][0].rows} == {2, 3}


def test_the_generator_decides():
    keep = torch.ones(4, 8, dtype=torch.bool)
    assert plan(keep, 4, 4, 2, rng(1)) == plan(keep, 4, 4, 2, rng(1))
    assert plan(keep, 4, 4, 2, rng(1)) != plan(keep, 4, 4, 2, rng(2))


def test_nothing_kept_is_nothing_to_do():
    assert plan(torch.zeros(2, 4, dtype=torch.bool), 2, 4, 2, rng()) == []


def test_impossible_sizes_are_errors():
    keep = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="3 samples cannot be spread over 4 ranks"):
        plan(keep, 1, 1, 4, rng())
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            plan(keep, *sizes, rng())
