"""z-scores: hand-computed values of every preset, invariances, masks, DDPO's history."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.advantage.normalise import RULES, batch_zscore, group_zscore, history_zscore
from rlvis.records import RewardHistory
from rlvis.schema import AdvantagePreset, StdScope

PRESETS = list(AdvantagePreset)
GROUP_PRESETS = [p for p in PRESETS if not RULES[p].history]
NAN = float("nan")


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def all_valid(values):
    return torch.ones(values.shape, dtype=torch.bool)


@st.composite
def batches(draw):
    """Rewards on a grid of 1/64 (so that shifts and powers of two are exact), with some samples invalid."""
    p, k = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    ticks = draw(st.lists(st.integers(-6400, 6400), min_size=p * k, max_size=p * k))
    mask = draw(st.lists(st.booleans(), min_size=p * k, max_size=p * k))
    return f64(ticks).reshape(p, k) / 64, torch.tensor(mask).reshape(p, k)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (AdvantagePreset.dance, 3 / (math.sqrt(20 / 3) + 1e-8)),
        (AdvantagePreset.flow_grpo, 3 / (math.sqrt(5) + 1e-4)),
        (AdvantagePreset.gdpo, 3 / math.sqrt(5)),
    ],
)
def test_group_presets_by_hand(preset, expected):
    values = f64([[1.0, 3.0, 5.0, 7.0]])  # mean 4, squared deviations 9 1 1 9
    z = group_zscore(values, all_valid(values), RULES[preset])
    assert z[0, 3].item() == pytest.approx(expected, rel=1e-14)
    assert z[0, 1].item() == pytest.approx(-expected / 3, rel=1e-14)


def test_gdpo_divides_by_its_floor_below_it():
    values = f64([[0.0, 2e-8]])
    z = group_zscore(values, all_valid(values), RULES[AdvantagePreset.gdpo])
    assert z[0, 1].item() == pytest.approx(1e-8 / 1e-6, rel=1e-12)


def test_batch_std_is_over_all_groups_and_the_mean_over_one():
    values = f64([[0.0, 2.0], [10.0, 12.0]])
    z = group_zscore(values, all_valid(values), RULES[AdvantagePreset.flow_grpo], StdScope.batch)
    assert z[1, 1].item() == pytest.approx(1 / (math.sqrt(26) + 1e-4), rel=1e-14)


@pytest.mark.parametrize("preset", GROUP_PRESETS)
def test_without_a_std_the_deviation_stays_in_units_of_the_reward(preset):
    values = f64([[1.0, 3.0, NAN, 8.0], [0.0, 0.5, 1.0, 0.5]])
    z = group_zscore(values, values.isfinite(), RULES[preset], StdScope.none)
    assert z.tolist() == [[-3.0, -1.0, 0.0, 4.0], [-0.5, 0.0, 0.5, 0.0]]


@pytest.mark.parametrize("preset", GROUP_PRESETS)
@pytest.mark.parametrize("scope", list(StdScope))
def test_equal_rewards_give_exactly_zero(preset, scope):
    """0.7 twelve times: its float64 mean is not 0.7, so arithmetic alone gives up to 1e-8."""
    values = torch.cat([torch.full((1, 12), 0.7, dtype=torch.float64), torch.arange(12.0)[None].double()])
    z = group_zscore(values, all_valid(values), RULES[preset], scope)
    assert z[0].eq(0).all()
    assert z[1].ne(0).all()


@pytest.mark.parametrize("preset", GROUP_PRESETS)
@pytest.mark.parametrize("scope", list(StdScope))
def test_groups_of_fewer_than_two_valid_samples_get_zero(preset, scope):
    values = f64([[3.0, NAN, NAN], [NAN, NAN, NAN], [1.0, 2.0, NAN]])
    z = group_zscore(values, values.isfinite(), RULES[preset], scope)
    assert z[:2].eq(0).all()
    assert z[2].tolist() == [-z[2, 1].item(), z[2, 1].item(), 0.0]
    assert z[2, 1] > 0


@pytest.mark.parametrize("preset", GROUP_PRESETS)
@pytest.mark.parametrize("scope", list(StdScope))
@settings(max_examples=40, deadline=None)
@given(batch=batches(), filler=st.sampled_from([NAN, math.inf, -math.inf, 1e300]), shift=st.integers(-50, 50))
def test_invariances(preset, scope, batch, filler, shift):
    values, valid = batch
    rule = RULES[preset]
    z = group_zscore(values, valid, rule, scope)
    # What stands at an invalid sample is never seen, and it gets 0.
    torch.testing.assert_close(
        group_zscore(values.masked_fill(~valid, filler), valid, rule, scope), z, rtol=0, atol=0
    )
    assert z[~valid].eq(0).all()
    assert z.sum(-1).abs().max() < 1e-9
    # A shift common to the batch.
    torch.testing.assert_close(group_zscore(values + shift, valid, rule, scope), z, rtol=1e-9, atol=1e-9)
    # Order of samples and of groups.
    order, groups = torch.randperm(values.shape[1]), torch.randperm(values.shape[0])
    permuted = group_zscore(values[groups][:, order], valid[groups][:, order], rule, scope)
    torch.testing.assert_close(permuted, z[groups][:, order], rtol=0, atol=0)
    # A positive scale, up to the epsilon: the smallest std of distinct values on the grid is 1/128/sqrt(5).
    unit = 4 if scope is StdScope.none else 1
    torch.testing.assert_close(
        group_zscore(4 * values, valid, rule, scope), unit * z, rtol=3 * rule.eps / 3e-3 + 1e-9, atol=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_group_std_leaves_groups_alone(batch):
    values, valid = batch
    rule = RULES[AdvantagePreset.flow_grpo]
    whole = group_zscore(values, valid, rule)
    alone = torch.cat([group_zscore(v[None], m[None], rule) for v, m in zip(values, valid, strict=True)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


def test_large_rewards_stay_finite():
    values = f64([[1e6, -1e6, 1e6 + 1e-3]])
    for preset in GROUP_PRESETS:
        assert group_zscore(values, all_valid(values), RULES[preset]).isfinite().all()


def test_batch_zscore_by_hand_and_masked():
    values = f64([[0.0, NAN], [2.0, 4.0]])
    z = batch_zscore(values, values.isfinite(), RULES[AdvantagePreset.gdpo])
    std = math.sqrt(8 / 3)
    torch.testing.assert_close(z, f64([[-2 / std, 0.0], [0.0, 2 / std]]), rtol=1e-14, atol=1e-15)


class TestHistory:
    rule = RULES[AdvantagePreset.ddpo]

    def test_batch_until_min_count_then_the_prompts_own_past(self):
        index = torch.tensor([7, 9])
        values = f64([[1.0, 3.0], [5.0, 7.0]])
        z, history = history_zscore(
            values, all_valid(values), self.rule, index, RewardHistory(), min_count=4, buffer=6
        )
        std = math.sqrt(5) + 1e-6
        torch.testing.assert_close(z, (values - 4) / std, rtol=1e-14, atol=0)
        assert {k: v.tolist() for k, v in history.values.items()} == {"7": [1.0, 3.0], "9": [5.0, 7.0]}
        later = f64([[1.0, 3.0]])
        z, after = history_zscore(
            later, all_valid(later), self.rule, torch.tensor([7]), history, min_count=4, buffer=6
        )
        torch.testing.assert_close(z, f64([[-1.0, 1.0]]) / (1 + 1e-6), rtol=1e-14, atol=0)
        assert history.values["7"].tolist() == [1.0, 3.0]  # what was passed in is unchanged
        assert after.values["9"].tolist() == [5.0, 7.0]

    def test_buffer_keeps_the_newest(self):
        history = RewardHistory()
        for step in range(3):
            values = f64([[step, step + 0.5]])
            _, history = history_zscore(
                values, all_valid(values), self.rule, torch.tensor([0]), history, buffer=3
            )
        assert history.values["0"].tolist() == [1.5, 2.0, 2.5]

    def test_invalid_samples_are_neither_remembered_nor_averaged(self):
        values = f64([[1.0, NAN, 3.0], [NAN, NAN, NAN]])
        z, history = history_zscore(
            values, values.isfinite(), self.rule, torch.tensor([0, 1]), RewardHistory()
        )
        assert list(history.values) == ["0"]
        assert history.values["0"].tolist() == [1.0, 3.0]
        torch.testing.assert_close(z[0], f64([-1.0, 0.0, 1.0]) / (1 + 1e-6), rtol=1e-14, atol=0)
        assert z[1].eq(0).all()

    def test_a_group_of_one_is_compared_with_its_past(self):
        """The zero test is on what the statistics come from: DDPO runs with one sample per prompt."""
        past = RewardHistory(values={"0": f64([0.0, 2.0, 0.0])})
        values = f64([[2.0]])
        z, _ = history_zscore(values, all_valid(values), self.rule, torch.tensor([0]), past, min_count=4)
        assert z.item() == pytest.approx(1 / (1 + 1e-6), rel=1e-14)

    def test_equal_past_gives_exactly_zero(self):
        past = RewardHistory(values={"0": torch.full((11,), 0.7, dtype=torch.float64)})
        values = f64([[0.7]])
        z, _ = history_zscore(values, all_valid(values), self.rule, torch.tensor([0]), past, min_count=4)
        assert z.item() == 0.0

    def test_names_have_histories_of_their_own(self):
        values = f64([[1.0, 2.0]])
        history = RewardHistory()
        for name in ("", "colour"):
            _, history = history_zscore(
                values, all_valid(values), self.rule, torch.tensor([5]), history, name=name
            )
        assert sorted(history.values) == ["5", "5/colour"]

    def test_wrong_number_of_prompts_is_an_error(self):
        values = f64([[1.0, 2.0]])
        with pytest.raises(ValueError, match="2 prompt indices for 1 groups"):
            history_zscore(values, all_valid(values), self.rule, torch.tensor([5, 6]), RewardHistory())
