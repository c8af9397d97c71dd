"""Gaussians against scipy's, min-max rules, resizing in space and time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from rlvis.advantage.maps import spatial
from rlvis.schema import Aggregation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 37])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 2.6])
def test_the_gaussian_is_scipys(size: int, sigma: float) -> None:
    """Also where the mirror repeats, because the grid is smaller than the kernel."""
    eye = np.eye(size)
    want = gaussian_filter1d(eye, sigma, axis=0, mode="reflect", truncate=4.0) if sigma else eye
    np.testing.assert_allclose(spatial.gaussian_matrix(size, sigma), want, atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(gh=st.integers(2, 12), gw=st.integers(2, 12), sigma=st.floats(0.2, 3.0), seed=st.integers(0, 999))
def test_smoothing_is_scipys_then_minmax(gh: int, gw: int, sigma: float, seed: int) -> None:
    maps = torch.rand(2, gh, gw, generator=torch.Generator().manual_seed(seed))
    for got, one in zip(spatial.smooth(maps, sigma), maps.double().numpy(), strict=True):
        want = gaussian_filter(one, sigma)
        contrast = want.max() - want.min()
        assume(contrast > 1e-3)
        # The min-max divides float32 rounding by what contrast the smoothing has left.
        np.testing.assert_allclose(got, (want - want.min()) / contrast, atol=1e-6 / contrast)


def test_reverse_minmax_and_aggregation() -> None:
    scores = torch.tensor([[[2.0, 1.0, 7.0], [4.0, 1.0, 5.0], [3.0, 1.0, 6.0]]])
    want = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.5, 1.0], [0.5, 0.5, 0.5]]])
    assert torch.equal(spatial.reverse_minmax(scores), want)
    share = torch.tensor([[0.5, 0.25, 0.125]])
    weighted = spatial.aggregate(scores, share, Aggregation.weighted)
    assert weighted.tolist() == [[0.625, 0.25, 0.4375]]
    assert spatial.aggregate(scores, share, Aggregation.first_pc).tolist() == [[1.0, 0.0, 0.5]]
    uneven = torch.tensor([[[2.0, 1.0, 9.0], [4.0, 1.0, 5.0]]])  # means 4 and 10/3
    assert spatial.aggregate(uneven, share, Aggregation.average).tolist() == [[0.0, 1.0]]


def test_minmax_of_a_flat_map_is_ones() -> None:
    for value in (0.0, 0.3, -7.0):
        assert torch.equal(spatial.minmax(torch.full((2, 3, 4), value), (-2, -1)), torch.ones(2, 3, 4))


def test_minmax_over_free_positions() -> None:
    x = torch.tensor([[[9.0, 1.0], [3.0, 2.0]]])
    free = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert spatial.minmax(x, (-2, -1), free).tolist() == [[[0.0, 0.0], [1.0, 0.5]]]
    flat = torch.tensor([[[9.0, 1.0], [1.0, 1.0]]])
    assert spatial.minmax(flat, (-2, -1), free).tolist() == [[[0.0, 1.0], [1.0, 1.0]]]
    assert spatial.minmax(x, (-2, -1), torch.zeros(2, 2)).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_time() -> None:
    maps = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spatial.in_time(maps[:, :1], 1, 0.3), maps[:, :1])
    got = spatial.in_time(maps, 5, 0.8)
    want = gaussian_filter1d(maps.double().numpy(), 0.8, axis=1)
    low, high = (f(want, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    np.testing.assert_allclose(got, (want - low) / (high - low), atol=1e-6)
    short = spatial.in_time(maps, 2, 0.3)
    assert short.shape == (2, 2, 3, 4)
    assert short.amin((1, 2, 3)).tolist() == [0.0, 0.0]
    assert short.amax((1, 2, 3)).tolist() == [1.0, 1.0]


def test_mean_one() -> None:
    free = torch.ones(1, 2, 2)
    free[0, 0, 0] = 0
    maps = spatial.mean_one(torch.tensor([[[[5.0, 1.0], [2.0, 3.0]]]]), free)
    assert maps.tolist() == [[[[0.0, 0.5], [1.0, 1.5]]]]
