"""Sums that keep their bits: any order, any place in the tensor, any layout."""

import math

import torch

from rlvis.runtime.sums import ordered_sum


def test_neither_order_nor_place_nor_layout_changes_a_bit():
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 7, 24, 100):
        values = (
            torch.randn(9, n, dtype=torch.float64, generator=generator) * 10.0 ** torch.arange(9)[:, None]
        )
        whole = ordered_sum(values, 1)
        order = torch.randperm(n, generator=generator)
        assert ordered_sum(values[:, order], -1).equal(whole)
        assert ordered_sum(values.T.contiguous()).equal(whole)
        assert torch.stack([ordered_sum(row) for row in values]).equal(whole)
        exact = torch.tensor([math.fsum(row) for row in values.tolist()], dtype=torch.float64)
        torch.testing.assert_close(whole, exact, rtol=1e-14, atol=1e-14 * 1e8)


def test_the_sum_of_nothing_is_zero():
    assert ordered_sum(torch.zeros(3, 0, 2, dtype=torch.float64), 1).tolist() == [[0.0, 0.0]] * 3
