"""Principal components against numpy's SVD, the two solvers against each other, and every sign convention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis.advantage.maps import pca
from rlvis.schema import PcaSign


def tokens(n: int, length: int, width: int, seed: int = 0, decay: float = 0.8) -> Tensor:
    """Random tokens whose variances fall by `decay` a direction."""
    generator = torch.Generator().manual_seed(seed)
    scale = decay ** torch.arange(width).float()
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return torch.randn(n, length, width, generator=generator) * scale @ turn.T + 3.0


@pytest.mark.parametrize(("length", "width"), [(6, 12), (60, 32), (100, 64), (50, 200), (9, 3)])
def test_against_the_singular_value_decomposition(length: int, width: int) -> None:
    x = tokens(3, length, width)
    parts = pca.components(x, 3)
    centred = x.double().numpy() - x.double().numpy().mean(1, keepdims=True)
    for i in range(3):
        _, values, right = np.linalg.svd(centred[i], full_matrices=False)
        loading = right[:3] * np.sign(np.take_along_axis(right, abs(right).argmax(1)[:, None], 1))[:3]
        scores = centred[i] @ loading.T
        np.testing.assert_allclose(parts.scores[i], scores, atol=2e-5 * abs(scores).max())
        np.testing.assert_allclose(parts.loadings[i].T, loading, atol=2e-5)
        np.testing.assert_allclose(
            parts.explained[i], values[:3] ** 2 / (values**2).sum(), rtol=1e-5, atol=1e-7
        )


def test_ranks_below_the_number_of_components() -> None:
    line = torch.linspace(-1, 1, 40)[None, :, None] * torch.tensor([1.0, 2.0, 0.0, 0.0])
    parts = pca.components(line, 3)
    torch.testing.assert_close(parts.explained, torch.tensor([[1.0, 0.0, 0.0]]))
    assert float(parts.scores[..., 1:].abs().max()) == 0.0
    few = pca.components(torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]), 3)
    assert few.scores.shape == (1, 2, 3)
    assert few.loadings.shape == (1, 4, 3)
    assert few.explained.tolist()[0] == pytest.approx([1.0, 0.0, 0.0])


def test_equal_tokens_up_to_rounding_have_no_components() -> None:
    x = torch.full((1, 30, 8), 5.0) + 1e-6 * torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(0))
    for same in (x, torch.zeros(1, 30, 8)):
        parts = pca.components(same, 3)
        assert float(parts.scores.abs().max()) == float(parts.explained.abs().max()) == 0.0


def test_too_many_components_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted 1\.\.4 components, got 5"):
        pca.components(torch.zeros(1, 9, 4), 5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), flips=st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_convention_does_not_depend_on_the_signs_it_is_given(seed: int, flips: list[bool]) -> None:
    parts = pca.components(tokens(2, 30, 16, seed), 3)
    sign = torch.tensor([-1.0 if flip else 1.0 for flip in flips])
    turned = pca.Components(parts.scores * sign, parts.loadings * sign, parts.explained)
    for convention in (PcaSign.max_abs_score, PcaSign.border):
        a = pca.fix_signs(parts, convention, 1, (5, 6))
        torch.testing.assert_close(a, pca.fix_signs(turned, convention, 1, (5, 6)), rtol=0, atol=0)


def test_each_convention() -> None:
    parts = pca.components(tokens(4, 60, 16), 3)
    index = parts.loadings.abs().argmax(1, keepdim=True)
    assert bool((parts.loadings.gather(1, index) > 0).all())
    by_score = pca.fix_signs(parts, PcaSign.max_abs_score, 2, (5, 6))
    assert bool((by_score.gather(1, by_score.abs().argmax(1, keepdim=True)) > 0).all())
    by_border = pca.fix_signs(parts, PcaSign.border, 2, (5, 6)).view(4, 2, 5, 6, 3)
    inside = by_border[:, :, 1:-1, 1:-1].mean((1, 2, 3))
    border = (by_border.sum((1, 2, 3)) - by_border[:, :, 1:-1, 1:-1].sum((1, 2, 3))) / 36
    assert bool((border >= inside).all())
    assert torch.equal(pca.fix_signs(parts, PcaSign.border, 1, (2, 30)), parts.scores)  # no inside
    assert torch.equal(pca.fix_signs(parts, PcaSign.max_abs_loading, 2, (5, 6)), parts.scores)
