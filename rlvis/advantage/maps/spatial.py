"""From component scores to a map on the latent grid: aggregation, Gaussian, resizing, min-max.

Gaussians are small matrices with the border of scipy's gaussian_filter (reflect, truncated at 4 sigma), so
one batched product smooths all frames of all samples. A map without any contrast becomes ones, never zeros:
zeros would switch the sample off. Source: ViPO, arXiv 2511.18719, Eq. 6 and its release.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.schema import Aggregation

FLAT = 1e-6  # contrast, relative to the values, below which there is only rounding


def reverse_minmax(x: Tensor) -> Tensor:
    """(max - x) / (max - min) along axis 1 of [n, L, ...]; 0.5 where flat."""
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    flat = _flat(high, low)
    return torch.where(flat, 0.5, (high - x) / torch.where(flat, 1.0, high - low))


def aggregate(scores: Tensor, explained: Tensor, how: Aggregation) -> Tensor:
    """One value a token [n, L] in [0, 1] from scores [n, L, k] and shares of variance [n, k].

    weighted: sum of the reversed components times their shares (ViPO Eq. 6). average: the mean of the raw
    scores, reversed once. first_pc: the first component, reversed.
    """
    if how is Aggregation.average:
        return reverse_minmax(scores.mean(2))
    reversed_ = reverse_minmax(scores)
    if how is Aggregation.first_pc:
        return reversed_[..., 0]
    return (reversed_ * explained[:, None]).sum(2).clamp(0.0, 1.0)


def minmax(x: Tensor, axes: tuple[int, ...], free: Tensor | None = None) -> Tensor:
    """(x - min) / (max - min) over `axes`, in [0, 1]; ones where flat.

    free: broadcastable to x, > 0 where values count; the others become 0.
    """
    counted = torch.ones_like(x, dtype=torch.bool) if free is None else (free > 0).expand_as(x)
    high = torch.where(counted, x, -torch.inf).amax(axes, keepdim=True)
    low = torch.where(counted, x, torch.inf).amin(axes, keepdim=True)
    flat = _flat(high, low)
    scaled = ((x - low) / torch.where(flat, 1.0, high - low)).clamp(0.0, 1.0)
    return torch.where(counted, torch.where(flat, 1.0, scaled), 0.0)


def gaussian_matrix(size: int, sigma: float, device: torch.device | str = "cpu") -> Tensor:
    """[size, size], rows summing to 1: a 1-D Gaussian with half-sample symmetric borders (d c b a|a b c d|d
    c b a).

    sigma in grid cells; 0 gives the identity. The kernel ends at int(4 sigma + 0.5) cells, and the mirror
    repeats where the grid is smaller than that.
    """
    if sigma == 0:
        return torch.eye(size, device=device)
    radius = int(4.0 * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset.double() / sigma).square())
    kernel /= kernel.sum()
    at = (torch.arange(size)[:, None] + offset) % (2 * size)
    at = torch.where(at < size, at, 2 * size - 1 - at)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, at, kernel.expand(size, -1)).float().to(device)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian over the last two axes of [..., gh, gw], then min-max of each map."""
    gh, gw = maps.shape[-2:]
    rows, columns = gaussian_matrix(gh, sigma, maps.device), gaussian_matrix(gw, sigma, maps.device)
    return minmax(rows @ maps @ columns.T, (-2, -1))


def to_latent(maps: Tensor, size: tuple[int, int], free: Tensor | None = None) -> Tensor:
    """[n, gh, gw] -> [n, H, W]: antialiased bilinear, then min-max of each map over the free positions."""
    resized = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)
    return minmax(resized[:, 0], (-2, -1), free)


def in_time(maps: Tensor, frames: int, sigma: float, free: Tensor | None = None) -> Tensor:
    """[N, M, H, W] -> [N, F, H, W]: trilinear where M differs from F, Gaussian over frames, one min-max a
    sample.

    sigma: in latent frames. free: [F, H, W]. One frame in and out is left as it is.
    """
    if maps.shape[1] == frames == 1:
        return maps
    if maps.shape[1] != frames:
        size = (frames, *maps.shape[-2:])
        maps = F.interpolate(maps[:, None], size=size, mode="trilinear", align_corners=False)[:, 0]
    maps = torch.einsum("fg,nghw->nfhw", gaussian_matrix(frames, sigma, maps.device), maps)
    return minmax(maps, (1, 2, 3), free)


def mean_one(maps: Tensor, free: Tensor) -> Tensor:
    """Each map [N, F, H, W] over its mean on the free positions [F, H, W]; 0 where not free."""
    kept = torch.where(free > 0, maps, 0.0)
    return kept * (free > 0).sum() / kept.sum((1, 2, 3), keepdim=True)


def _flat(high: Tensor, low: Tensor) -> Tensor:
    return high - low <= FLAT * torch.maximum(high.abs(), low.abs())
