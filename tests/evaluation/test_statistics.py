"""Means, errors and intervals by values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlvis.evaluation.statistics import cluster_mean, interval, paired


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
    assert all(math.isnan(end) for end in interval(np.array([1.0, 0.0]), np.array([3, 3])))


def test_samples_of_one_prompt_do_not_narrow_the_interval() -> None:
    """Copies of a sample are no evidence; taken as independent they would narrow it by sqrt(10)."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=40)
    low, high = interval(once, np.arange(40))
    assert interval(np.repeat(once, 10), np.repeat(np.arange(40), 10)) == pytest.approx(
        (low, high), abs=1e-12
    )
    error = once.std(ddof=1) / math.sqrt(40)
    # The bootstrap of a mean is nearly normal; 5 % is its own noise with 9999 resamples.
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_the_interval_is_the_same_every_time() -> None:
    values, clusters = np.random.default_rng(1).normal(size=30), np.arange(30) // 3
    assert interval(values, clusters) == interval(values, clusters)


def test_pairing_removes_what_two_runs_share() -> None:
    a, b = {1: 0.9, 2: 0.3, 3: 0.6}, {3: 0.5, 1: 0.7, 2: 0.3}
    estimate = paired(a, b)
    # Differences 0.2, 0, 0.1 by seed: mean 0.1, standard deviation 0.1.
    assert estimate.difference == pytest.approx(0.1, abs=1e-15)
    assert estimate.error == pytest.approx(0.1 / math.sqrt(3), abs=1e-15)
    assert (estimate.n, estimate.low >= 0, estimate.high <= 0.2 + 1e-12) == (3, True, True)
    assert estimate.low < estimate.difference < estimate.high


def test_unpaired_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="only on one: 2, 3"):
        paired({1: 0.5, 2: 0.5}, {1: 0.5, 3: 0.5})
    with pytest.raises(ValueError, match="there are none"):
        paired({}, {})
