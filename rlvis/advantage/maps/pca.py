"""Batched principal components of tokens, with explained variances and a sign convention.

The sign of a component is arbitrary, and the map depends on it: a flipped component swaps foreground and
background. So a convention is part of the method. Two solvers: `exact` (eigenvectors of the smaller of the
covariance and the Gram matrix) and `subspace` (block Krylov from a fixed start, Musco and Musco 2015), whose
residuals are checked: what has not converged is solved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlvis.schema import PcaSign, PcaSolver

BLOCK = 16  # columns: fewer are no faster on a CPU, and each one more widens the gap
DEPTH = 3  # products of one round
ROUNDS = 6  # on an accelerator each one waits for its residuals
TOLERANCE = 2e-6  # of a residual, relative to the largest eigenvalue: twice what float32 rounding leaves
CONSTANT = 1e-10  # variance over mean square below which tokens are equal up to rounding


@dataclass(frozen=True, slots=True)
class Components:
    """scores [n, L, k], loadings [n, D, k], explained [n, k]: shares of the total variance."""

    scores: Tensor
    loadings: Tensor
    explained: Tensor


def components(tokens: Tensor, k: int, solver: PcaSolver = PcaSolver.subspace) -> Components:
    """Mean-centred top-k components of each item, signed so that the largest |loading| is positive.

    tokens: [n, L, D], finite. k: components; those beyond the rank have scores and shares of 0. Tokens that
    are
    equal up to rounding have no components: all scores are 0.
    Raises ValueError unless 1 <= k <= D and L >= 1.
    """
    _, length, width = tokens.shape
    if not 1 <= k <= width or length < 1:
        raise ValueError(f"PCA of {length} tokens of width {width}: wanted 1..{width} components, got {k}")
    tokens = tokens.float()
    x = tokens - tokens.mean(1, keepdim=True)
    total = torch.linalg.vector_norm(x, dim=(1, 2)).square()
    by_token = length < width
    solve = _subspace if solver is PcaSolver.subspace else _exact
    values, vectors, image = solve(x.mT if by_token else x, min(k, length, width))
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


class _Eigen(NamedTuple):
    """Top-k eigenvalues of z^T z [n, k], falling, its eigenvectors [n, b, k], and z times them [n, a, k]."""

    values: Tensor
    vectors: Tensor
    image: Tensor


def _exact(z: Tensor, k: int) -> _Eigen:
    """Of z [n, a, b] with a >= b, by all eigenvectors."""
    values, vectors = torch.linalg.eigh(z.mT @ z)
    values, vectors = values[:, -k:].flip(-1), vectors[..., -k:].flip(-1)
    return _Eigen(values, vectors, z @ vectors)


def _subspace(z: Tensor, k: int) -> _Eigen:
    """The same without forming z^T z; items with a residual above TOLERANCE are solved exactly.

    Rayleigh-Ritz in the block Krylov space of DEPTH products, restarted from its best vectors: the residual
    falls as a Chebyshev polynomial of the gap between the wanted eigenvalues and the first outside the block.
    """
    n, _, size = z.shape
    block = max(BLOCK, 2 * k)
    if size <= 2 * block * DEPTH or n == 0:
        return _exact(z, k)
    drawn = torch.randn(size, block, generator=torch.Generator().manual_seed(0))
    start = drawn.to(z).expand(n, -1, -1)
    for _ in range(ROUNDS):
        blocks = [_product(z, z @ start)]
        while len(blocks) < DEPTH:
            blocks.append(_product(z, z @ torch.linalg.qr(blocks[-1])[0]))
        # Blocks of equal scale, or the first directions would drown the last ones in rounding.
        basis = torch.linalg.qr(torch.cat([b / b.norm(dim=1, keepdim=True) for b in blocks], 2))[0]
        image = z @ basis
        values, inner = (t[..., -block:].flip(-1) for t in torch.linalg.eigh(image.mT @ image))
        start, image = basis @ inner, image @ inner
        residual = (_product(z, image) - start * values[:, None])[..., :k].norm(dim=1).amax(1)
        bad = residual > TOLERANCE * values[:, 0].abs()
        eigen = _Eigen(values[:, :k], start[..., :k], image[..., :k])
        if not bool(bad.any()):
            return eigen
    eigen = _Eigen(*(part.clone() for part in eigen))
    for part, exact in zip(eigen, _exact(z[bad], k), strict=True):
        part[bad] = exact
    return eigen


def _product(z: Tensor, y: Tensor) -> Tensor:
    """z^T y; in this order the skinny factor comes first, which is twice as fast on a CPU."""
    return (y.mT @ z).mT
