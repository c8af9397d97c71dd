"""The size of the image as a JPEG file, the larger the better: a reward of DDPO (arXiv 2305.13301).

Sizes are in kB of 1000 bytes at quality 95, RGB with Pillow's default chroma subsampling, and averaged over
the frames of a video.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from rlvis.reward.facts import Facts, states
from rlvis.schema.key import Key

Quality = Annotated[int, Key("of the JPEG file, as Pillow counts it", least=1, most=100)]


@states(Facts(weights=0))
def jpeg_incompressibility(
    images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]], quality: Quality = 95
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


ENTRY = jpeg_incompressibility
