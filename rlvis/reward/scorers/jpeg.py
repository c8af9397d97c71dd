"""The size of the image as a JPEG file: the reward of DDPO (arXiv 2305.13301) that needs no model.

Sizes are in kB of 1000 bytes at quality 95, RGB with Pillow's default chroma subsampling, and averaged over
the frames of a video.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def jpeg_incompressibility(
    images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]], quality: int = 95
) -> Tensor:
    """Size of the JPEG file in kB, the larger the better: float64 [B] from images uint8 [B, M, 3, Y, X]."""
    from PIL import Image

    def size(frame: Tensor) -> float:
        buffer = io.BytesIO()
        pixels = frame.permute(1, 2, 0).contiguous().cpu().numpy()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
        return buffer.tell() / 1000

    sizes = [[size(frame) for frame in sample] for sample in images]
    return torch.tensor(sizes, dtype=torch.float64).reshape(images.shape[:2]).mean(dim=1)


def jpeg_compressibility(
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]],
    quality: int = 95,
    scale: float = 500.0,
) -> Tensor:
    """Minus the size of the JPEG file in kB over `scale`: float64 [B]. scale: 500 in Flow-GRPO, 1 in DDPO."""
    return -jpeg_incompressibility(images, prompts, metadata, quality) / scale
