"""Weights of groups: pinned values, bounds, monotony."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.trust import ras

NUMBER = st.floats(-50, 50)


def one(x):
    return torch.tensor([[x]], dtype=torch.float64)


def test_the_inside_of_equation_2():
    """Mean .7, prior .3, k = 2."""
    assert ras.sigmoid(one(0.7 - 0.3), 1.0, 2.0).item() - 1 == pytest.approx(0.3799, abs=5e-5)


@settings(deadline=None)
@given(NUMBER, NUMBER, st.floats(0, 1), st.floats(0, 10))
def test_sigmoid_is_bounded_and_monotone(a, b, alpha, k):
    low, high = sorted((a, b))
    w = ras.sigmoid(torch.tensor([low, high], dtype=torch.float64), alpha, k)
    assert 1 - alpha <= w[0] <= w[1] <= 1 + alpha


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1), st.floats(0, 10))
def test_nothing_to_say_is_exactly_one(delta, alpha, k):
    assert ras.sigmoid(one(delta), alpha, 0.0).item() == 1.0
    assert ras.sigmoid(one(delta), 0.0, k).item() == 1.0
    assert ras.sigmoid(one(0.0), alpha, k).item() == 1.0


def test_posterior_of_4_5_6():
    """R = (4, 5, 6), P = 0, v0 = 1: n / s^2 = 3, V = 1 / 4, m = 15 / 4."""
    m, v = ras.posterior_moments(one(5.0), one(1.0), one(3.0), one(0.0), one(1.0))
    assert v.item() == pytest.approx(0.25, rel=1e-7)
    assert m.item() == pytest.approx(3.75, rel=1e-7)
    w = ras.posterior(one(5.0), one(1.0), one(3.0), one(0.0), one(1.0), alpha=1.0, w_min=0.5, w_max=1.5)
    assert w.item() == pytest.approx(0.5 + 0.5 * (1 + math.erf(7.5 / math.sqrt(2))), rel=1e-12)


def weight(rule, mean, var, n, prior, v0, alpha=1.0, w_min=0.5, w_max=1.5):
    numbers = (one(float(x)) for x in (mean, var, n, prior, v0))
    return rule(*numbers, alpha=alpha, w_min=w_min, w_max=w_max).item()


@settings(deadline=None)
@given(NUMBER, NUMBER, NUMBER, st.floats(0, 100), st.integers(1, 24), st.floats(0, 100))
def test_posterior_is_bounded_monotone_and_one_at_the_prior(a, b, prior, var, n, v0):
    low, high = sorted((a, b))
    w = [weight(ras.posterior, x, var, n, prior, v0) for x in (low, high)]
    assert 0.5 <= w[0] <= w[1] <= 1.5
    assert weight(ras.posterior, prior, var, n, prior, v0) == 1.0


@settings(deadline=None)
@given(NUMBER, NUMBER, st.floats(0, 100), st.integers(1, 24), st.floats(0, 100))
def test_agreement_is_highest_at_the_prior_and_even_in_the_deviation(deviation, prior, var, n, v0):
    near = weight(ras.agreement, deviation / 2, var, n, 0.0, v0)
    far = weight(ras.agreement, deviation, var, n, 0.0, v0)
    assert 0.5 <= far <= near <= 1.5
    assert weight(ras.agreement, -deviation, var, n, 0.0, v0) == far
    assert weight(ras.agreement, prior, var, n, prior, v0) == 1.5


def test_agreement_is_the_two_sided_p_value():
    """s^2 / n + v0 = 4 / 4 + 3 = 4: a deviation of 2 is one standard error, p = 0.3173."""
    assert weight(ras.agreement, 2.0, 4.0, 4, 0.0, 3.0, w_min=0.0, w_max=1.0) == pytest.approx(
        0.31731, abs=1e-5
    )


def test_alpha_stretches_and_the_weight_is_bounded():
    assert weight(ras.posterior, 9.0, 1.0, 8, 0.0, 1.0, alpha=0.0) == 1.0
    assert weight(ras.posterior, 9.0, 1.0, 8, 0.0, 1.0, alpha=0.5) == pytest.approx(1.25)
    assert weight(ras.posterior, -9.0, 1.0, 8, 0.0, 1.0, alpha=4.0) == 0.01
    assert weight(ras.posterior, 9.0, 1.0, 8, 0.0, 1.0, alpha=40.0) == 10.0


def test_a_single_sample_has_variance_one():
    """V = 1 / 2, m = 1 / 2, so the weight is 0.5 + Phi(sqrt(1 / 2))."""
    phi = 0.5 * (1 + math.erf(0.5))
    assert weight(ras.posterior, 1.0, 0.0, 1, 0.0, 1.0) == pytest.approx(0.5 + phi, rel=1e-12)
