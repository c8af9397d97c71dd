"""The shapes world's own reward: how much of the image has the colour that the prompt names.

It is dense and bounded, and it can be raised without drawing the shape: that is what the hard checker in
data.world is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.data import world


def coverage(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
    """Mean membership of the pixels in the prompt's colour, averaged over frames: float64 [B] in [0, 1].

    images: uint8 [B, M, 3, Y, X]. Raises ValueError on a prompt that is not of the shapes world.
    """
    count, frames = images.shape[:2]
    colours = [world.parse(prompt)[0] for prompt in prompts for _ in range(frames)]
    per_frame = world.coverage(images.flatten(0, 1).to(torch.float64) / 255, colours)
    return per_frame.reshape(count, frames).mean(dim=1)
