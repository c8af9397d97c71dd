"""Objectives of several rewards, GDPO's batch normalisation, best-of-N."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.advantage.combine import best_and_worst, gdpo, objectives
from rlvis.records import Rewards
from rlvis.schema import Combine


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def rewards(term, valid=None, weights=(1.0, 0.5)):
    term = f64(term)
    names = tuple("abcd"[: term.shape[-1]])
    valid = torch.ones(term.shape[:2], dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Rewards(term=term, names=names, weights=weights, valid=valid, latency=(0.0,) * len(names))


def test_weighted_sum_has_one_objective_and_masks_nan():
    values, names = objectives(
        rewards([[[2.0, 4.0], [float("nan"), 1.0]]], valid=[[True, False]]), Combine.weighted_sum
    )
    assert values.tolist() == [[[4.0], [0.0]]]
    assert names == ("grpo",)


@pytest.mark.parametrize("combine", [Combine.gdpo, Combine.separate_terms])
def test_other_combinations_have_one_objective_per_reward_without_weights(combine):
    values, names = objectives(rewards([[[2.0, 4.0], [1.0, 3.0]]]), combine)
    assert values.tolist() == [[[2.0, 4.0], [1.0, 3.0]]]
    assert names == ("a", "b")


def test_gdpo_by_hand():
    z = f64([[[1.0, -1.0], [2.0, -2.0]], [[2.0, -2.0], [0.0, 0.0]]])  # [Q, P, K]
    valid = torch.ones(2, 2, dtype=torch.bool)
    # sums with weights 1 and .5: +-2 and +-2, population std 2
    torch.testing.assert_close(
        gdpo(z, (1.0, 0.5), valid), f64([[1.0, -1.0], [1.0, -1.0]]), rtol=1e-15, atol=0
    )


def test_gdpo_keeps_groups_without_signal_at_exactly_zero_and_ignores_invalid_samples():
    z = f64([[[0.1, 0.2, -0.3], [0.0, 0.0, 0.0], [0.7, -0.6, 99.0]]])
    valid = torch.tensor([[True] * 3, [True] * 3, [True, True, False]])
    out = gdpo(z, (1.0,), valid)
    assert out[1].eq(0).all()
    assert out[2, 2].item() == 0
    counted = z[0][valid]
    assert counted.mean() != 0  # so subtracting it would leave something in the second group
    expected = (0.2 - counted.mean()) / counted.std(correction=0)
    assert out[0, 1].item() == pytest.approx(expected.item(), rel=1e-14)


def test_best_and_worst_by_hand_with_ties_and_invalid_samples():
    score = f64([[0.0, 5.0, 1.0, 4.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0], [9.0, 8.0, 7.0, 6.0, 5.0]])
    valid = torch.ones(3, 5, dtype=torch.bool)
    valid[2, 0] = False
    assert best_and_worst(score, valid, 2).tolist() == [
        [True, True, False, False, False],
        [True, False, False, False, True],
        [False, True, False, False, True],
    ]
    valid[2, 1:3] = False
    assert best_and_worst(score, valid, 4)[2].tolist() == [False, False, False, True, True]


def test_odd_n_is_refused_where_the_release_is_asymmetric():
    """DanceGRPO's slices take 4 best and 3 worst for n = 7; a symmetric rule has no odd n."""
    score, valid = f64([[float(i) for i in range(12)]]), torch.ones(1, 12, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"best_of_n=7.*type advantage.best_of_n=6"):
        best_and_worst(score, valid, 7)
    for n in (0, -2, 14):
        with pytest.raises(ValueError, match=r"even number in 2\.\.12"):
            best_and_worst(score, valid, n)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=st.integers(2, 9))
def test_best_and_worst_keeps_n_and_is_symmetric_in_sign(data, k):
    n = 2 * data.draw(st.integers(1, k // 2))
    score = f64([data.draw(st.permutations([float(i) for i in range(k)]))])
    valid = torch.tensor([data.draw(st.lists(st.booleans(), min_size=k, max_size=k))])
    keep = best_and_worst(score, valid, n)
    assert keep.sum() == min(n, int(valid.sum()))
    assert not (keep & ~valid).any()
    assert torch.equal(keep, best_and_worst(-score, valid, n))
    if valid.any():
        lowest = score.masked_fill(~valid, 99.0).argmin()
        highest = score.masked_fill(~valid, -99.0).argmax()
        assert keep[0, lowest]
        assert keep[0, highest]
