"""Means with their errors, and comparisons of runs.

Samples of one prompt are not independent, so prompts are the clusters. For cluster sums s_p of n_p values
(P clusters, n = sum n_p, m = sum s_p / n) the standard error of m is

    se = sqrt( P / (P - 1) * sum_p (s_p - m n_p)^2 ) / n

the linearised error of a ratio (Cochran 1977, chapter 6), which for equal n_p is the standard deviation of
the prompts' means by sqrt(P). Intervals are percentile bootstraps (Efron 1979) over whole clusters with a
fixed seed: they are honest for dozens of clusters, too narrow for a handful.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

FORMULA = (
    "sqrt(P/(P-1) * sum_p (s_p - m n_p)^2) / n, clusters p are prompts, s_p their sums, n_p their samples"
)
Key = TypeVar("Key", bound=Hashable)
RESAMPLES = 9999
SEED = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n samples of `clusters` prompts; error: its standard error, NaN below two prompts."""

    mean: float
    error: float
    samples: int
    clusters: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A against run B over the n keys (seeds) they share: the mean of a - b, its standard error and its
    95 % interval low .. high, which are NaN below two keys.
    """

    difference: float
    error: float
    low: float
    high: float
    n: int


def cluster_mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Mean of values [N] with the error of the module's formula; NaN values are left out.

    >>> cluster_mean(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    Estimate(mean=0.75, error=0.25, samples=4, clusters=2)
    """
    sums, counts = _sums(values, clusters)
    groups, n = len(sums), int(counts.sum())
    if not n:
        return Estimate(math.nan, math.nan, 0, 0)
    mean = float(sums.sum() / n)
    error = math.nan
    if groups > 1:
        error = math.sqrt(groups / (groups - 1) * float(np.square(sums - mean * counts).sum())) / n
    return Estimate(mean, error, n, groups)


def interval(values: np.ndarray, clusters: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of that mean, prompts drawn whole; (NaN, NaN) below two prompts."""
    sums, counts = _sums(values, clusters)
    return _bootstrap(sums, counts, confidence)


def paired(a: Mapping[Key, float], b: Mapping[Key, float], confidence: float = 0.95) -> Comparison:
    """Compare two arms run by run: key (a seed) -> result, the same keys in both.

    Raises ValueError when a key is missing in one of them, because a difference of unpaired runs is another
    test.
    """
    odd = sorted(str(key) for key in set(a) ^ set(b))
    if odd or not a:
        raise ValueError(
            "a paired comparison needs the same keys on both sides; "
            + (f"only on one: {', '.join(odd)}" if odd else "there are none")
        )
    differences = np.array([a[key] - b[key] for key in a], dtype=np.float64)
    estimate = cluster_mean(differences, np.arange(len(differences)))
    low, high = _bootstrap(differences, np.ones(len(differences)), confidence)
    return Comparison(estimate.mean, estimate.error, low, high, len(differences))


def _sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the known values of each cluster that has any."""
    known = ~np.isnan(values)
    _, place = np.unique(clusters[known], return_inverse=True)
    size = int(place.max()) + 1 if len(place) else 0
    return np.bincount(place, values[known], size), np.bincount(place, minlength=size).astype(np.float64)


def _bootstrap(sums: np.ndarray, counts: np.ndarray, confidence: float) -> tuple[float, float]:
    from scipy import stats

    if len(sums) < 2:
        return math.nan, math.nan
    bounds = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(bounds.low), float(bounds.high)
