"""Batched principal components of tokens, with explained variances and a sign convention.

The sign of a component is arbitrary, and the map depends on it: a flipped component swaps foreground and
background. So a convention is part of the method. The components are eigenvectors of the smaller of the
covariance and the Gram matrix: 1 to 3 % of the backbone's forward that comes before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.schema import PcaSign

CONSTANT = 1e-10  # variance over mean square below which tokens are equal up to rounding


@dataclass(frozen=True, slots=True)
class Components:
    """scores [n, L, k], loadings [n, D, k], explained [n, k]: shares of the total variance."""

    scores: Tensor
    loadings: Tensor
    explained: Tensor


def components(tokens: Tensor, k: int) -> Components:
    """Mean-centred top-k components of each item, signed so that the largest |loading| is positive.

    tokens: [n, L, D], finite. k: components; those beyond the rank have scores and shares of 0. Tokens that
    are equal up to rounding have no components: all scores are 0.
    Raises ValueError unless 1 <= k <= D and L >= 1.
    """
    _, length, width = tokens.shape
    if not 1 <= k <= width or length < 1:
        raise ValueError(f"PCA of {length} tokens of width {width}: wanted 1..{width} components, got {k}")
    tokens = tokens.float()
    x = tokens - tokens.mean(1, keepdim=True)
    total = torch.linalg.vector_norm(x, dim=(1, 2)).square()
    by_token = length < width
    values, vectors, image = _eigen(x.mT if by_token else x, min(k, length, width))
    values = values.clamp(min=0.0)
    real = values > 1e-6 * total[:, None]
    root = torch.where(real, values, 1.0).sqrt()[:, None]
    if by_token:
        scores, loadings = vectors * root, image / root
    else:
        scores, loadings = image, vectors
    constant = total <= CONSTANT * torch.linalg.vector_norm(tokens, dim=(1, 2)).square()
    real &= ~constant[:, None]
    scores = torch.where(real[:, None], scores, 0.0)
    explained = torch.where(real, values / torch.where(total > 0, total, 1.0)[:, None], 0.0)
    sign = _sign_of_largest(loadings)
    result = Components(scores * sign, loadings * sign, explained)
    missing = k - values.shape[1]
    if missing == 0:
        return result
    pad = torch.nn.functional.pad
    return Components(*(pad(t, (0, missing)) for t in (result.scores, result.loadings, result.explained)))


def fix_signs(components: Components, convention: PcaSign, frames: int, grid: tuple[int, int]) -> Tensor:
    """Scores [n, L, k] with the signs of a convention; L = frames * gh * gw.

    max_abs_score: the largest |score| is positive (scikit-learn up to 1.4). max_abs_loading: the largest
    |loading| is positive (scikit-learn from 1.5). border: the mean score on the border patches is at least
    the mean inside, so that the reverse min-max gives the inside more; a grid without an inside keeps
    max_abs_loading.
    """
    scores = components.scores
    if convention is PcaSign.max_abs_score:
        return scores * _sign_of_largest(scores)
    if convention is PcaSign.border and min(grid) > 2:
        inside = torch.zeros(grid, dtype=torch.bool, device=scores.device)
        inside[1:-1, 1:-1] = True
        inside = inside.flatten().repeat(frames)
        low = scores[:, ~inside].mean(1, keepdim=True) < scores[:, inside].mean(1, keepdim=True)
        return torch.where(low, -scores, scores)
    return scores


def _sign_of_largest(x: Tensor) -> Tensor:
    """[n, m, k] -> [n, 1, k] of +-1: the sign of the entry of largest size in each column."""
    top = x.gather(1, x.abs().argmax(1, keepdim=True))
    return torch.where(top < 0, -1.0, 1.0)


def _eigen(z: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of z [n, a, b] with a >= b: top-k eigenvalues of z^T z [n, k], falling, its eigenvectors [n, b, k], and
    z times them [n, a, k].
    """
    values, vectors = torch.linalg.eigh(z.mT @ z)
    values, vectors = values[:, -k:].flip(-1), vectors[..., -k:].flip(-1)
    return values, vectors, z @ vectors
