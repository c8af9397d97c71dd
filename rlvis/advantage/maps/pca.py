"""Batched principal components of tokens, with explained variances and a sign convention.

The sign of a component is arbitrary, and the map depends on it: a flipped component swaps foreground and
background. So a convention is part of the method. Two solvers: `exact` (eigenvectors of the smaller of the
covariance and the Gram matrix) and `subspace` (block power iteration from a fixed start with Rayleigh-Ritz,
whose residuals are checked; what has not converged is solved exactly).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.schema import PcaSign, PcaSolver

OVERSAMPLING = 8  # further columns of the block: they decide how fast the last wanted component converges
TOLERANCE = 2e-6  # of a residual, relative to the largest eigenvalue: twice what float32 rounding leaves
CHECK_EVERY = 4  # iterations between two looks at the residual: on an accelerator each one waits for it
MAX_ITERATIONS = 60
CONSTANT = 1e-10  # variance over mean square below which tokens are equal up to rounding


@dataclass(frozen=True, slots=True)
class Components:
    """scores [n, L, k], loadings [n, D, k], explained [n, k]: shares of the total variance."""

    scores: Tensor
    loadings: Tensor
    explained: Tensor


def components(tokens: Tensor, k: int, solver: PcaSolver = PcaSolver.subspace) -> Components:
    """Mean-centred top-k components of each item, signed so that the largest |loading| is positive.

    tokens: [n, L, D], finite. k: components; those beyond the rank have scores and shares of 0. Tokens that are
    equal up to rounding have no components: all scores are 0.
    Raises ValueError unless 1 <= k <= D and L >= 1.
    """
    _, length, width = tokens.shape
    if not 1 <= k <= width or length < 1:
        raise ValueError(f"PCA of {length} tokens of width {width}: wanted 1..{width} components, got {k}")
    tokens = tokens.float()
    mean = tokens.mean(1, keepdim=True)
    x = tokens - mean
    total = x.square().sum((1, 2))
    by_token = length < width
    matrix = x @ x.mT if by_token else x.mT @ x
    values, vectors = (_subspace if solver is PcaSolver.subspace else _exact)(
        matrix, min(k, matrix.shape[-1])
    )
    values = values.clamp(min=0.0)
    real = values > 1e-6 * total[:, None]
    root = torch.where(real, values, 1.0).sqrt()[:, None]
    if by_token:
        scores, loadings = vectors * root, (x.mT @ vectors) / root
    else:
        scores, loadings = x @ vectors, vectors
    constant = total <= CONSTANT * tokens.square().sum((1, 2))
    real &= ~constant[:, None]
    scores = torch.where(real[:, None], scores, 0.0)
    explained = torch.where(real, values / torch.where(total > 0, total, 1.0)[:, None], 0.0)
    sign = _sign_of_largest(loadings)
    made = Components(scores * sign, loadings * sign, explained)
    missing = k - values.shape[1]
    if missing == 0:
        return made
    pad = torch.nn.functional.pad
    return Components(*(pad(t, (0, missing)) for t in (made.scores, made.loadings, made.explained)))


def signed(found: Components, convention: PcaSign, frames: int, grid: tuple[int, int]) -> Tensor:
    """Scores [n, L, k] with the signs of a convention; L = frames * gh * gw.

    max_abs_score: the largest |score| is positive (scikit-learn up to 1.4). max_abs_loading: the largest
    |loading| is positive (scikit-learn from 1.5). border: the mean score on the border patches is at least the
    mean inside, so that the reverse min-max gives the inside more; a grid without an inside keeps
    max_abs_loading.
    """
    scores = found.scores
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


def _exact(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top-k eigenvalues [n, k], falling, and eigenvectors [n, m, k] of symmetric matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return values[:, -k:].flip(-1), vectors[..., -k:].flip(-1)


def _subspace(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by block power iteration; items with a residual above TOLERANCE are solved exactly."""
    n, size, _ = matrix.shape
    block = k + OVERSAMPLING
    if size <= 2 * block or n == 0:
        return _exact(matrix, k)
    start = torch.randn(size, block, generator=torch.Generator().manual_seed(0)).to(matrix)
    basis = torch.linalg.qr(matrix @ start)[0]
    # Two products between orthogonalisations: float32 keeps the wanted directions apart that long.
    for number in range(1, MAX_ITERATIONS + 1):
        basis = torch.linalg.qr(matrix @ (matrix @ basis))[0]
        if number % CHECK_EVERY == 0 or number == MAX_ITERATIONS:
            values, vectors, bad = _ritz(matrix, basis, k)
            if not bool(bad.any()):
                return values, vectors
    exact_values, exact_vectors = _exact(matrix[bad], k)
    values[bad], vectors[bad] = exact_values, exact_vectors
    return values, vectors


def _ritz(matrix: Tensor, basis: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rayleigh-Ritz in a basis [n, m, b]: values, vectors, and which items have not converged [n]."""
    image = matrix @ basis
    small, inner = torch.linalg.eigh(basis.mT @ image)
    values, inner = small[:, -k:].flip(-1), inner[..., -k:].flip(-1)
    vectors = basis @ inner
    residual = (image @ inner - vectors * values[:, None]).norm(dim=1).amax(1)
    return values, vectors, residual > TOLERANCE * values[:, 0].abs()
