"""Pictures and metadata as scorers get them: copies, which they may write into."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Lent:
    """Pictures uint8 [N, M, 3, Y, X] as scorers see them: a copy, put right after each call that wrote into
    it. So whoever else reads the pictures, at the same time or later, has the true ones.
    """

    def __init__(self, media: Tensor) -> None:
        self.true, self.shown = media, media.clone(memory_format=torch.contiguous_format)

    def put_right(self, rows: slice) -> bool:
        """Whether rows had been written into; they are right again."""
        true, shown = self.true[rows], self.shown[rows]
        if torch.equal(*_wide(true, shown)):
            return False
        shown.copy_(true)
        return True


def copied(metadata: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metadata that may be written into; as they are where somebody's objects cannot be copied."""
    try:
        return copy.deepcopy(list(metadata))
    except Exception:
        return [dict(row) for row in metadata]


def _wide(*pixels: Tensor) -> tuple[Tensor, ...]:
    """The same bytes in words of eight, which compare six times as fast, where they fill such words."""
    fits = all(p.is_contiguous() and p.numel() % 8 == 0 and p.storage_offset() % 8 == 0 for p in pixels)
    return tuple(p.reshape(-1).view(torch.int64) for p in pixels) if fits else pixels
