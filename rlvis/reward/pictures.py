"""Pictures on their way into a judge: as tensors on its device, a batch at a time, and yet as PIL does it.

Unusual: the two libraries that published judges use cut the middle out of a picture differently where the
margins are not equal; `crop` says which one is meant, since it moves the picture by a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.reward.contract import Scores
from rlvis.reward.texts import captions

# Of the pictures CLIP was trained on, in [0, 1]; BLIP takes the same.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Where the middle begins, from the margin: torchvision rounds half to even, transformers rounds down.
CROPS: dict[str, Callable[[int], int]] = {
    "torchvision": lambda margin: round(margin / 2),
    "transformers": lambda margin: margin // 2,
}


def resize(pixels: Tensor, size: int | Sequence[int], mode: str = "bicubic") -> Tensor:
    """Pictures [n, 3, Y, X] of levels 0 to 255, resized as PIL does: across, then down, each in 8 bits.

    size: (y, x), or a number for the shorter side, the other in proportion. mode: "bicubic" or "bilinear".
    """
    high, wide = pixels.shape[-2:]
    if isinstance(size, int):
        size = (int(size * high / min(high, wide)), int(size * wide / min(high, wide)))
    for target in ((high, size[1]), tuple(size)):
        if target != tuple(pixels.shape[-2:]):
            # Clipping between the two passes matters where a picture has sharp edges.
            pixels = F.interpolate(pixels, size=target, mode=mode, antialias=True).round().clamp(0, 255)
    return pixels


def clip_input(pixels: Tensor, size: int, crop: str) -> Tensor:
    """CLIP's preparation: shorter side to `size`, the middle square, normalised: float32 [n, 3, size, size].

    Args: pixels, levels 0 to 255 [n, 3, Y, X] on the device; crop, a key of CROPS. One level of 255 from what
    PIL makes of them.
    """
    pixels = resize(pixels.float(), size)
    top, left = (CROPS[crop](side - size) for side in pixels.shape[-2:])
    return normalise(pixels[..., top : top + size, left : left + size] / 255)


def normalise(pixels: Tensor) -> Tensor:
    """Pictures in [0, 1] [n, 3, y, x] less MEAN over STD."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std


class Towers(Protocol):
    """Two encoders into one space, unit vectors float64 [n, D] on the CPU."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Of pictures uint8 [n, 3, Y, X]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Of n texts."""
        ...


# Pictures [n, 3, Y, X] and the samples 0 to B - 1 they belong to -> numbers [n].
Score = Callable[[Tensor, list[int]], Tensor]


def cosines(towers: Towers, prompts: Sequence[str]) -> Score:
    """What gives the cosine of each picture with its sample's prompt; each prompt is encoded once."""
    unique, where = captions(prompts)
    texts = towers.encode_texts(unique)[where]
    return lambda frames, rows: (towers.encode_images(frames) * texts[rows]).sum(1)


def judge(images: Tensor, batch: int, score: Score) -> Scores:
    """Scores of clips as the mean over their frames, each frame judged with its sample's caption.

    Args: images, uint8 [B, M, 3, Y, X]; batch, frames of one call. A sample with a frame that is not finite
    is invalid.
    """
    count, frames = images.shape[:2]
    pictures = images.flatten(0, 1)
    owner = [row for row in range(count) for _ in range(frames)]
    parts = [
        score(pictures[at : at + batch], owner[at : at + batch]).to("cpu", torch.float64)
        for at in range(0, len(pictures), batch)
    ]
    value = torch.cat(parts).reshape(count, frames).mean(1)
    return Scores(value, torch.isfinite(value))
