"""Seams of a tiled autoencoder: how much rougher a picture is across the borders of tiles than elsewhere.

A policy trained on tiled decodes can learn to live with seams, or to exploit them, so they are measured. The
roughness is the absolute second difference of neighbouring pixels, which a smooth ramp does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEVEL = 0.5  # of 255; added to both sides, so that two flat areas count as equally smooth


def seam_energy(frames: Tensor, strides: tuple[int, int]) -> Tensor:
    """Roughness across borders over roughness elsewhere, [B] float64: 1 without seams, more with.

    Args:
        frames: uint8 [B, M, 3, Y, X].
        strides: pixels from tile to tile, down and across (`rlvis.models.decoding.tile_strides`).

    Raises:
        ValueError: another shape, or no border lies within the frames.
    """
    if frames.ndim != 5 or not frames.shape[3] > 2 or not frames.shape[4] > 2:
        raise ValueError(f"frames are [B, M, 3, Y, X] of at least 3 x 3 pixels, got {list(frames.shape)}")
    down = _borders(frames.shape[3], strides[0])
    across = _borders(frames.shape[4], strides[1])
    if not down and not across:
        raise ValueError(
            f"no border of tiles at strides {strides} lies within {frames.shape[3]} x {frames.shape[4]}"
        )
    pixels = frames.double()
    at, other = [], []
    for axis, borders in ((3, down), (4, across)):
        rough = pixels.diff(n=2, dim=axis).abs().mean((1, 2, 7 - axis))  # [B, positions]
        on = torch.zeros(rough.shape[1], dtype=torch.bool)
        on[borders] = True
        at.append(rough[:, on])
        other.append(rough[:, ~on])
    return (torch.cat(at, 1).mean(1) + LEVEL) / (torch.cat(other, 1).mean(1) + LEVEL)


def _borders(side: int, stride: int) -> Sequence[int]:
    """Second differences that span a border: a step before pixel b shows at b - 1 and b, and the difference
    around pixel i is the (i - 1)-th.
    """
    positions = {i - 1 for b in range(stride, side, stride) for i in (b - 1, b)}
    return sorted(i for i in positions if 0 <= i < side - 2)
