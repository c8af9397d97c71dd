"""Means, errors and intervals by values worked out by hand; comparisons that must not pretend."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlvis.evaluation import statistics
from rlvis.evaluation.statistics import (
    Bounds,
    cluster_mean,
    holm,
    interval,
    over_seeds,
    paired,
    two_way,
)


def test_equal_clusters_are_the_standard_error_of_their_means() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    clusters = np.array([7, 7, 2, 2, 9, 9])
    estimate = cluster_mean(values, clusters)
    # Means of the clusters: 1/2, 1, 0; their variance is 1/4, so the error is sqrt(1/4 / 3).
    assert (estimate.mean, estimate.samples, estimate.clusters) == (0.5, 6, 3)
    assert estimate.error == pytest.approx(math.sqrt(1 / 12), abs=1e-15)


def test_unequal_clusters_follow_the_formula() -> None:
    estimate = cluster_mean(np.array([1.0, 2.0, 3.0, np.nan]), np.array([0, 0, 1, 1]))
    # m = 2, s - m n = (3 - 4, 3 - 2): sqrt(2 / 1 * 2) / 3.
    assert (estimate.mean, estimate.samples, estimate.clusters) == (2.0, 3, 2)
    assert estimate.error == pytest.approx(2 / 3, abs=1e-15)


def test_nothing_and_a_single_prompt_have_no_error() -> None:
    none = cluster_mean(np.array([np.nan]), np.array([0]))
    assert none.samples == 0
    assert math.isnan(none.mean)
    one = cluster_mean(np.array([1.0, 0.0]), np.array([3, 3]))
    assert one.mean == 0.5
    assert math.isnan(one.error)


@pytest.mark.parametrize("values", [[], [1.0, 0.0, 1.0, 0.0, 1.0], [0.3] * 12])
def test_too_few_prompts_and_equal_ones_have_no_interval(values: list[float]) -> None:
    assert all(math.isnan(end) for end in interval(np.array(values), np.arange(len(values))))


def test_samples_of_one_prompt_do_not_narrow_the_interval() -> None:
    """Copies of a sample are no evidence; taken as independent they would narrow it by sqrt(10)."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=40)
    low, high = interval(once, np.arange(40))
    assert interval(np.repeat(once, 10), np.repeat(np.arange(40), 10)) == pytest.approx(
        (low, high), abs=1e-12
    )
    error = once.std(ddof=1) / math.sqrt(40)
    # Of normal values it is Student's; 5 % is the bootstrap's own noise and the sample's shape.
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 39) * error, rel=0.05)


def test_the_interval_is_the_same_every_time() -> None:
    values, clusters = np.random.default_rng(1).normal(size=30), np.arange(30) // 3
    assert interval(values, clusters) == interval(values, clusters)


def test_pairing_removes_what_two_arms_share() -> None:
    rng = np.random.default_rng(2)
    prompts = rng.normal(size=(24, 1))  # much wider than the difference
    a = prompts + rng.normal(scale=0.01, size=(24, 3))
    compared = paired(a, a + 0.1 + rng.normal(scale=0.01, size=(24, 3)))
    assert (compared.prompts, compared.seeds, compared.differing, compared.doubt) == (24, 3, 24, "")
    assert compared.over_seeds
    assert 0.08 < compared.bounds.low < compared.difference < compared.bounds.high < 0.12
    assert compared.bounds.p < 0.001
    assert compared.better == 1.0
    assert not compared.better_bounds.known  # every prompt with every seed: no spread to draw from


def test_seeds_widen_the_interval_from_three_on() -> None:
    """Where only seeds differ, the interval is Student's over them; prompts alone would say nothing of it."""
    seeds = np.array([0.0, 0.1, 0.2])
    d = np.tile(seeds, (10, 1)) + np.random.default_rng(0).normal(scale=1e-3, size=(10, 1))
    bounds = two_way(d)
    half = (bounds.high - bounds.low) / 2
    # Of three values the bootstrap takes 10 means; its 2.5 % lies at the lowest, mean - 0.1, which is
    # sqrt(3/2) * 0.1 with the shrinking undone, times 4.30 / 1.96 for two degrees of freedom.
    assert half == pytest.approx(math.sqrt(1.5) * 0.1 * 4.3027 / 1.96, rel=0.02)
    two = two_way(d[:, :2])
    assert two.parts[1] == 0.0  # of two seeds nothing is drawn
    assert two.high - two.low < 0.01


def test_few_and_equal_differences_are_doubted() -> None:
    a = np.zeros((48, 2))
    equal = paired(a + 0.1, a + 0.1 + 1e-14)  # but for rounding
    b = a.copy()
    b[:4] = 1.0
    sparse, constant, few = paired(a, b), paired(a, a + 0.1), paired(a[:5], b[:5] + 1)
    assert [c.doubt for c in (equal, sparse, constant, few)] == [
        "equal on all 48 prompts",
        "only 4 of 48 prompts differ, too few for an interval",
        "the same difference on every prompt, no spread for an interval",
        "5 prompts, too few for an interval",
    ]
    assert not any(c.bounds.known or c.better_bounds.known for c in (sparse, constant, few))
    assert sparse.better == pytest.approx(0.5 + 4 / 96)  # ties are halves


def test_six_prompts_that_all_gain_are_the_least_evidence() -> None:
    gains = np.array([[0.1], [0.2], [0.3], [0.2], [0.1], [0.2]])
    six = paired(np.zeros((6, 1)), gains)
    assert six.bounds.low > 0
    assert not six.over_seeds


def test_p_is_the_level_at_which_the_interval_begins_to_hold_nothing() -> None:
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.2, 0.35, 0.5, 3.0):
        bounds = two_way(rng.normal(shift, 1.0, size=(30, 3)))
        assert (bounds.p <= 0.05) == (not bounds.low <= 0 <= bounds.high)
    assert bounds.p == pytest.approx(2 / 10000)  # nothing smaller can be drawn


def test_intervals_hold_the_truth_where_three_seeds_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain percentiles hold it in 73 of 100. 300 studies: 0.89 is four errors below 0.94."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        d = rng.normal(scale=0.05, size=(48, 1)) + rng.normal(scale=0.2, size=(1, 3))
        bounds = two_way(d + rng.normal(scale=0.1, size=(48, 3)))
        held += bounds.low <= 0 <= bounds.high
    assert held / 300 >= 0.89


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1; no smaller than the one before.
    assert holm([0.01, 0.04, math.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(holm([0.01, 0.04, math.nan, 0.03])[2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_students_interval_over_seeds() -> None:
    bounds = over_seeds(np.array([0.5, 0.3, 0.5]), np.array([0.7, 0.3, 0.6]))
    # Differences 0.2, 0, 0.1: mean 0.1, error 0.1 / sqrt(3), t = 1.732 with two degrees of freedom.
    assert (bounds.low + bounds.high) / 2 == pytest.approx(0.1)
    assert bounds.high - 0.1 == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert bounds.p == pytest.approx(2 * stats.t.sf(math.sqrt(3), 2))
    for few in ([0.1, 0.2], [0.1, 0.1, 0.1]):
        assert not over_seeds(np.zeros(len(few)), np.array(few)).known
    assert not Bounds().known
