"""Priors: what each gives, when its memory is read and written, and that order never matters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.findings import ConfigError
from rlvis.record_base import equal
from rlvis.records import PriorState
from rlvis.schema import Combine, PriorConfig, PriorScope
from rlvis.trust.prior import prior_of
from tests.trust.cases import AVERAGE, RAS, prompts, ran, rewards

PROMPT = PriorConfig(kind="moving_average", scope=PriorScope.prompt)
HIERARCHICAL = PriorConfig(kind="hierarchical")
RECORD = PriorConfig(kind="record", field="difficulty")


def noise(seed, p=3, k=4, r=1):
    return torch.randn(p, k, r, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_constant_is_one_number_or_one_for_each_objective():
    two = rewards(noise(0, r=2))
    trust, state = ran(two, RAS, PriorConfig(kind="constant", value=0.5), combine=Combine.gdpo)
    assert trust.anchor_mean.tolist() == [[0.5, 0.5]] * 3
    assert state.values == {}
    each = PriorConfig(kind="constant", value=[0.5, -1])
    assert ran(two, RAS, each, combine=Combine.gdpo)[0].anchor_mean.tolist() == [[0.5, -1.0]] * 3
    for bad in (None, True, "0.5", [1.0, float("nan")]):
        with pytest.raises(ConfigError, match=r"prior\.value=.*wanted a number, or a list with one for each"):
            ran(two, RAS, PriorConfig(kind="constant", value=bad), combine=Combine.gdpo)
    with pytest.raises(ValueError, match=r"prior\.value is .*wanted a finite number, or a list of 2"):
        ran(two, RAS, PriorConfig(kind="constant", value=[1.0]), combine=Combine.gdpo)


def test_a_record_is_a_metadata_field():
    fields = [{"difficulty": 0.1}, {"difficulty": 2}, {"difficulty": [-0.5]}]
    assert ran(rewards(noise(0)), RAS, RECORD, metadata=fields)[0].anchor_mean.flatten().tolist() == [
        0.1,
        2,
        -0.5,
    ]
    with pytest.raises(ValueError, match=r"prompt 2 has no metadata field 'difficulty' \(it has level\)"):
        ran(rewards(noise(0)), RAS, RECORD, metadata=[*fields[:2], {"level": 3}])
    with pytest.raises(ValueError, match="metadata field 'difficulty' of prompt 1 is 'hard'"):
        ran(rewards(noise(0)), RAS, RECORD, metadata=[fields[0], {"difficulty": "hard"}, fields[2]])
    with pytest.raises(ValueError, match=r"type prior\.field=NAME"):
        ran(rewards(noise(0)), RAS, PriorConfig(kind="record"))


class TestReference:
    CONFIG = PriorConfig(kind="reference")

    def test_mean_variance_and_count_of_the_reference_samples(self):
        scores = torch.tensor([[1.0, 3.0, torch.nan], [2.0, 2.0, 5.0]], dtype=torch.float64)
        trust, _ = ran(rewards(noise(0, 2)), RAS, self.CONFIG, reference=rewards(scores))
        assert trust.anchor_mean.flatten().tolist() == [2.0, 3.0]
        assert trust.anchor_var.flatten().tolist() == [2.0, 3.0]
        assert trust.anchor_count.flatten().tolist() == [2.0, 3.0]

    def test_scores_are_asked_for_once(self):
        step, scores = rewards(noise(0, 2)), rewards(noise(1, 2))
        batch = prompts([7, 3])
        fresh = PriorState(kind="reference")
        prior = prior_of(self.CONFIG)
        assert prior.unknown(fresh.values, batch) == [0, 1]
        with pytest.raises(
            ValueError, match=r"prior\.kind=reference needs scores of prompt 7 from elsewhere"
        ):
            ran(step, RAS, self.CONFIG, index=[7, 3])
        first, state = ran(step, RAS, self.CONFIG, index=[7, 3], reference=scores)
        assert prior.unknown(state.values, prompts([3, 8])) == [1]
        again, after = ran(step, RAS, self.CONFIG, state, index=[3, 7])
        assert equal(after, state)
        torch.testing.assert_close(again.anchor_mean, first.anchor_mean.flip(0), rtol=0, atol=0)

    def test_first_frame_is_one_score(self):
        config = PriorConfig(kind="first_frame")
        trust, state = ran(rewards(noise(0, 2)), RAS, config, reference=rewards([[0.25], [0.5]]))
        assert trust.anchor_mean.flatten().tolist() == [0.25, 0.5]
        assert trust.anchor_var.eq(0).all()
        assert state.kind == "first_frame"

    def test_a_prompt_without_any_reference_score_has_weight_one(self):
        scores = torch.full((2, 3), torch.nan, dtype=torch.float64)
        scores[1] = 9.0
        trust, state = ran(rewards(noise(0, 2)), RAS, self.CONFIG, reference=rewards(scores))
        assert trust.weight[0].item() == 1.0
        assert trust.weight[1].item() < 1.0
        assert list(state.values) == ["prompt/1"]

    def test_other_prompts_or_terms_are_refused(self):
        with pytest.raises(ValueError, match=r"wanted \[P, Q\] = \[2, 1\]"):
            ran(rewards(noise(0, 2)), RAS, self.CONFIG, reference=rewards(noise(1, 3)))


class TestMovingAverage:
    def test_the_first_step_has_weight_one_and_sets_the_mean(self):
        step = rewards([[0.0, 2.0], [4.0, 6.0]])
        trust, state = ran(step, RAS, AVERAGE)
        assert trust.weight.eq(1).all()
        assert trust.anchor_mean.flatten().tolist() == [3.0, 3.0]
        assert trust.anchor_count.eq(0).all()
        mean, var, count = state.values["all"].flatten().tolist()
        assert (mean, var, count) == (3.0, 4.0, 2.0)

    def test_a_step_reads_the_state_before_it_and_writes_once(self):
        _, state = ran(rewards([[0.0, 2.0], [4.0, 6.0]]), RAS, AVERAGE)
        trust, after = ran(rewards([[9.0, 9.0], [17.0, 17.0]]), RAS, AVERAGE, state)
        assert trust.anchor_mean.flatten().tolist() == [3.0, 3.0]
        assert (trust.weight > 1).all()
        assert after.values["all"][0].item() == pytest.approx(0.9 * 3 + 0.1 * 13)
        assert after.values["all"][1].item() == pytest.approx(0.9 * 4 + 0.1 * 16 + 0.09 * 100)  # of a mixture
        assert after.values["all"][2].item() == 4.0
        assert state.values["all"][0].item() == 3.0  # what was passed in is unchanged

    def test_one_mean_a_prompt(self):
        _, state = ran(rewards([[1.0, 1.0], [5.0, 5.0]]), RAS, PROMPT, index=[4, 9])
        assert sorted(state.values) == ["prompt/4", "prompt/9"]
        trust, after = ran(rewards([[2.0, 2.0], [7.0, 7.0], [3.0, 3.0]]), RAS, PROMPT, state, index=[9, 8, 9])
        assert trust.anchor_mean.flatten().tolist() == [5.0, 7.0, 5.0]
        assert trust.weight[1].item() == 1.0  # its first step
        assert after.values["prompt/9"][0].item() == pytest.approx(0.9 * 5 + 0.1 * 2.5)
        assert after.values["prompt/4"].equal(state.values["prompt/4"])

    @pytest.mark.parametrize("prior", [AVERAGE, PROMPT])
    def test_groups_without_a_valid_sample_are_left_out(self, prior):
        values = noise(3)
        values[1] = torch.nan
        trust, state = ran(rewards(values), RAS, prior)
        _, without = ran(rewards(values[[0, 2]]), RAS, prior, index=[0, 2])
        assert equal(state, without)
        assert trust.weight[1].item() == 1.0
        nothing, empty = ran(rewards(torch.full((2, 2), torch.nan)), RAS, prior)
        assert nothing.weight.eq(1).all()
        assert empty.values == {}
        assert equal(ran(rewards(torch.full((3, 4), torch.nan)), RAS, prior, state)[1], state)


@pytest.mark.parametrize("prior", [AVERAGE, PROMPT, HIERARCHICAL], ids=["global", "prompt", "hierarchical"])
@settings(deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 99))
def test_the_order_of_prompts_changes_no_bit(prior, order, seed):
    index = torch.tensor([3, 1, 4, 1, 5])  # one prompt twice
    states = []
    for places in (list(range(5)), order):
        state = PriorState(kind=prior.kind)
        for step in range(2):
            scored = rewards(noise(seed + step, 5).double()[places])
            trust, state = ran(scored, RAS, prior, state, index=index[places])
        states.append((trust, state, places))
    (plain, first, _), (turned, second, places) = states
    assert equal(first, second)
    torch.testing.assert_close(turned.weight, plain.weight[places], rtol=0, atol=0)


class TestHierarchical:
    def test_posterior_of_a_prompt_by_hand(self):
        """Two groups of means 0 and 4 and s^2 = 2, n = 2: mean s^2 / n is 1, t2 = 8 - 1 = 7, mu = 2."""
        _, state = ran(rewards([[-1.0, 1.0], [3.0, 5.0]]), RAS, HIERARCHICAL, index=[6, 7])
        trust, after = ran(rewards([[9.0, 9.5], [3.0, 5.0]]), RAS, HIERARCHICAL, state, index=[7, 8])
        shrunk = (4.0 / 1 + 2.0 / 7) / (1 / 1 + 1 / 7)
        assert trust.anchor_mean.flatten().tolist() == pytest.approx([shrunk, 2.0], rel=1e-6)
        assert trust.anchor_var.flatten().tolist() == pytest.approx([1 / (1 + 1 / 7), 7.0], rel=1e-6)
        mean, precision, groups = after.values["prompt/7"].flatten().tolist()
        assert precision == pytest.approx(1 + 2 / 0.125, rel=1e-6)
        assert mean == pytest.approx((4.0 * 1 + 9.25 * 16) / 17, rel=1e-6)
        assert groups == 2

    def test_the_first_step_has_weight_one(self):
        assert ran(rewards(noise(1)), RAS, HIERARCHICAL)[0].weight.eq(1).all()

    def test_prompts_that_differ_by_noise_alone_share_the_mean(self):
        values = torch.tensor([[0.0, 4.0], [0.5, 4.5], [-0.5, 3.5]], dtype=torch.float64)
        _, state = ran(rewards(values), RAS, HIERARCHICAL)
        trust, _ = ran(rewards(values), RAS, HIERARCHICAL, state)
        assert trust.anchor_mean.flatten().tolist() == [2.0, 2.0, 2.0]
        assert trust.anchor_var.eq(0).all()

    def test_the_window_forgets_and_groups_of_one_are_left_out(self):
        config = PriorConfig(kind="hierarchical", window=4)
        state = PriorState(kind="hierarchical")
        for step in range(3):
            _, state = ran(rewards(noise(step)), RAS, config, state)
        assert state.values["window"].shape == (4, 2, 1)
        lone = noise(9)
        lone[0, 1:] = torch.nan
        _, after = ran(rewards(lone), RAS, config, state)
        assert after.values["prompt/0"].equal(state.values["prompt/0"])


@pytest.mark.parametrize("prior", [AVERAGE, PROMPT, HIERARCHICAL])
def test_a_state_goes_through_a_file(prior, tmp_path):
    _, state = ran(rewards(noise(0)), RAS, prior)
    state.save(tmp_path / "prior")
    loaded = PriorState.load(tmp_path / "prior")
    here, there = (ran(rewards(noise(1)), RAS, prior, s) for s in (state, loaded))
    assert equal(here[0], there[0])
    assert equal(here[1], there[1])
