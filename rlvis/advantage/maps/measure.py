"""How the tokens of any model lie on a frame, found by looking at what it makes of two blank ones."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from rlvis.advantage.maps.backbone import Layout

FEWEST = 2  # cells along a side, below which nothing tells rows from columns
MOST_PREFIX = 16  # tokens before the patches; more are not believed


def measured(
    hidden: Callable[[int, int], Tensor], side: int, patch: int | None = None, prefix: int | None = None
) -> Layout:
    """The layout of a model.

    hidden: (height, width) -> its tokens [1, L, D] or feature map [1, D, gh, gw] of a blank frame; it may
    raise anything. side: of the square that it was trained on. patch, prefix: as far as they are known.
    Raises ValueError, with the reason, for what is no grid of at least 2 x 2 tokens.
    """
    square = hidden(side, side)
    if square.ndim == 4:
        cells, prefix = square.shape[2], 0
    elif square.ndim == 3 and square.shape[0] == 1:
        length = square.shape[1]
        cells = math.isqrt(length - (prefix or 0)) if patch is None else side // patch
        prefix = length - cells * cells if prefix is None else prefix
        if prefix + cells * cells != length or not 0 <= prefix <= MOST_PREFIX:
            patches = "" if patch is None else f" of patches of {patch} pixels"
            raise ValueError(
                f"{length} tokens of a frame of {side} x {side}, which are no square grid{patches}"
            )
    else:
        raise ValueError(f"an output of shape {list(square.shape)}, neither tokens nor a feature map")
    if cells < FEWEST:
        raise ValueError(f"a grid of {cells} x {cells} of a frame of {side} x {side}")
    step = side // cells if patch is None or square.ndim == 4 else patch
    if _takes(hidden, 3 * step, 4 * step, step, prefix):
        return Layout(step, prefix)
    if cells * step != side:
        raise ValueError(
            f"a grid of {cells} x {cells} of frames of {side} x {side} alone, no whole pixels each"
        )
    return Layout(step, prefix, (side, side))


def _takes(hidden: Callable[[int, int], Tensor], height: int, width: int, step: int, prefix: int) -> bool:
    """Whether it takes frames of another size, with a grid that grows with them."""
    try:
        other = hidden(height, width)
    except Exception:  # whatever a model says to a size that it cannot take
        return False
    wide = height // step, width // step
    return tuple(other.shape[2:]) == wide if other.ndim == 4 else other.shape[1] == prefix + wide[0] * wide[1]
