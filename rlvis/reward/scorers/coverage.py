"""The shapes world's simple reward: how much of the image has the colour that the prompt names.

It is dense and bounded, and it can be raised without drawing the shape: that is what the checker in
data.world is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.data.world import checker
from rlvis.data.world.language import parse
from rlvis.reward.facts import Facts, states


@states(Facts(weights=0, world=True))
def coverage(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
    """Mean membership of the pixels in the prompt's colour, averaged over frames: float64 [B] in [0, 1].

    The colour is that of the first thing that the prompt names. images: uint8 [B, M, 3, Y, X]. Raises
    ValueError on a prompt that is not of the shapes world, or that leaves this colour open.
    """
    count, frames = images.shape[:2]
    colours = [_colour(prompt) for prompt in prompts for _ in range(frames)]
    per_frame = checker.coverage(images.flatten(0, 1).to(torch.float64) / 255, colours)
    return per_frame.reshape(count, frames).mean(dim=1)


def _colour(prompt: str) -> str:
    colour = parse(prompt).things[0].colour
    if colour is None:
        raise ValueError(
            f"coverage rewards the colour that a prompt names, and {prompt!r} names none: reward it with "
            "reward=checker, or train on prompts such as 'a red circle'"
        )
    return colour


ENTRY = coverage
