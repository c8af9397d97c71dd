"""The contrast: pinned values, the stable form against the raw one, order, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.advantage.normalise import RULES, contrast_zscore, group_zscore
from rlvis.observe.metrics import trust_metrics
from rlvis.schema import AdvantagePreset, Combine, CrtConfig, CrtForm, PriorConfig, TrustConfig
from rlvis.trust import contrast
from tests.trust.cases import exp_raw, prompts, ran, rewards

DANCE = RULES[AdvantagePreset.dance]
ONE = PriorConfig(kind="constant", value=1.0)
VALUES = st.lists(st.floats(-3, 3), min_size=2, max_size=8)


def row(values):
    return torch.tensor(values, dtype=torch.float64)


def stable(reward, prior, lam=1.0, monotone=False, scale=1.0):
    """[K] rewards through the form that is trained with."""
    value = reward[None, :, None]
    valid = torch.ones(1, len(reward), dtype=torch.bool)
    values = contrast.exp((value - prior) / scale, valid, lam=lam, monotone=monotone)
    return values[0, :, 0]


def z(values):
    return contrast_zscore(values[None], torch.ones(1, len(values), dtype=torch.bool), DANCE)[0]


def test_equation_4():
    assert exp_raw(row([1.0]), row([0.5]), lam=50).item() == pytest.approx(26 * math.e, rel=1e-14)
    values = exp_raw(row([0.2, 0.5, 0.8]), row([0.5]), lam=10)
    torch.testing.assert_close(values, row([-3 * math.exp(0.2), 0.0, 4 * math.exp(0.8)]))


def test_gated():
    values = contrast.gated(row([1.0]), row([0.5]), gain=50, tau=5)
    assert values.item() == pytest.approx(26 / (1 + math.exp(-0.2)), rel=1e-14)


@settings(deadline=None)
@given(VALUES, st.floats(-1, 1), st.floats(0, 50))
def test_the_stable_form_is_the_raw_one_up_to_a_positive_factor(values, prior, lam):
    r = row(values)
    raw = exp_raw(r, row([prior]), lam=lam)
    factor = math.exp(float(r.max()))
    torch.testing.assert_close(stable(r, prior, lam) * factor, raw, rtol=1e-12, atol=1e-300)


@settings(deadline=None)
@given(
    st.lists(st.integers(-300, 300), min_size=2, max_size=8, unique=True),
    st.floats(-1, 1),
    st.floats(-1e3, 1e3),
)
def test_z_does_not_change_with_a_constant_added_to_reward_and_prior(hundredths, prior, shift):
    """Rewards a hundredth apart: the shift of up to 1e3 rounds at 1e-13, so 1e-8 is far above rounding."""
    r = row(hundredths) / 100 + 0.0012345  # never equal to the prior, where the indicator jumps
    prior = round(prior, 2)
    torch.testing.assert_close(z(stable(r + shift, prior + shift)), z(stable(r, prior)), rtol=0, atol=1e-8)


def test_it_is_finite_and_unclamped_for_huge_rewards():
    r = row([1e6, -1e6, 0.0, 5e5])
    scores = z(stable(r, 0.0))
    assert torch.isfinite(scores).all()
    assert scores.argmax() == 0
    torch.testing.assert_close(scores[1:], scores[1].expand(3))
    assert torch.isfinite(z(stable(r, 2e6))).all()


def test_the_order_is_kept_only_above_prior_minus_one():
    r = row([-3.0, -2.0, -1.0, -0.5, 0.5])
    assert (stable(r, 0.0).diff() < 0).tolist() == [True, True, False, False]
    kept = stable(r, 0.0, monotone=True)
    assert (kept.diff() >= 0).all()
    assert (kept.diff()[2:] > 0).all()


@settings(deadline=None)
@given(VALUES, st.floats(-2, 2), st.floats(0, 50), st.floats(0.1, 10))
def test_monotone_keeps_the_order_weakly(values, prior, lam, scale):
    r = row(sorted(values))
    contrasts = stable(r, prior, lam, monotone=True, scale=scale)
    assert (contrasts.diff() >= -1e-12 * contrasts.abs().max()).all()


def test_the_epsilon_is_relative_to_the_spread():
    """Whatever the factor common to the group, the z-score is the same; an absolute epsilon would eat it."""
    values = row([0.1, 0.4, 0.7, 2.0])
    rule = RULES[AdvantagePreset.flow_grpo]
    valid = torch.ones(1, 4, dtype=torch.bool)
    plain = contrast_zscore(values[None], valid, rule)
    torch.testing.assert_close(contrast_zscore(values[None] * 1e-12, valid, rule), plain, rtol=1e-12, atol=0)
    assert group_zscore(values[None] * 1e-12, valid, rule).abs().max() < 1e-7
    spread = 1.9
    torch.testing.assert_close(plain, group_zscore(values[None] / spread, valid, rule), rtol=1e-12, atol=0)


def test_equal_values_have_no_contrast():
    assert z(stable(row([12 * 0.7] * 4), 0.3)).eq(0).all()


def test_gated_puts_the_worst_on_top_of_rewards_far_below_the_prior():
    """P = 1: (R - P) R falls to R = P / 2, so .1 ends above .9; exp keeps the order from P - 1 on."""
    r = row([0.1, 0.3, 0.5, 0.7, 0.9])
    values = contrast.gated(r, row([1.0]), gain=50, tau=5)
    assert values.argmax() == 0
    assert (values.diff() < 0).tolist() == [True, True, False, False]
    assert (stable(r, 1.0).diff() > 0).all()
    judged, _ = ran(rewards(r[None]), TrustConfig(crt=CrtConfig(form=CrtForm.gated)), ONE)
    counted = trust_metrics(judged, rewards(r[None]), Combine.weighted_sum)["trust/inverted_fraction"]
    assert counted == 0.6  # .1 is above all four, .3 above .5 and .7
    judged, _ = ran(rewards(r[None]), TrustConfig(crt=CrtConfig(form=CrtForm.exp)), ONE)
    assert trust_metrics(judged, rewards(r[None]), Combine.weighted_sum)["trust/inverted_fraction"] == 0


def test_a_pair_of_a_group_without_a_contrast_is_not_counted():
    values = rewards([[1 + 1e-15, 1.0, 1 + 1e-15], [0.2, 0.1, 0.15]])
    judged, _ = ran(values, TrustConfig(crt=CrtConfig(form=CrtForm.gated)), ONE)
    assert judged.contrast_share[0].item() == 0
    assert trust_metrics(judged, values, Combine.weighted_sum)["trust/inverted_fraction"] == 1.0


@pytest.mark.parametrize(("above", "indicator"), [(1e-13, 0), (1e-11, 1)])
def test_a_last_bit_above_the_prior_is_a_tie(above, indicator):
    r = row([above, 0.0])
    assert stable(r, 0.0)[0].item() == pytest.approx(indicator, abs=1e-10)
    ones = contrast.gated(r + 1, row([1.0]), gain=1, tau=1)
    assert ones[0].item() == pytest.approx(indicator / (1 + math.exp(-1)), abs=1e-10)


def test_the_share_of_a_group_s_deviations():
    d = torch.tensor([[0.0, 0.1], [0.0, 1e-5], [0.0, 1e-9], [2.0, 2.0]], dtype=torch.float64)
    valid = torch.ones(4, 2, dtype=torch.bool)
    assert contrast.share(d[..., None], valid)[:, 0].tolist() == pytest.approx(
        [1 - 1e-5, 0.9, 0, 0], abs=1e-12
    )
    valid[0] = False
    valid[1, 1] = False
    assert contrast.share(d[..., None], valid)[:2].eq(0).all()


def test_gated_inverts_pairs_of_negative_rewards_so_they_are_refused():
    contrasts = contrast.gated(row([-1.0, -0.5]), row([0.5]), gain=50, tau=5)
    assert contrasts[0] > contrasts[1]
    values = torch.tensor([[[0.5], [0.2]], [[0.3], [0.0]]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"first is 0, sample 1 of prompt 9 \('prompt 9'\).*crt.form=exp"):
        contrast.refuse_nonpositive(values, torch.ones(2, 2, dtype=torch.bool), prompts([4, 9]))
    valid = torch.tensor([[True, True], [True, False]])
    contrast.refuse_nonpositive(values, valid, prompts([4, 9]))
