"""Minus the size of the image as a JPEG file: the reward of DDPO (arXiv 2305.13301) that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from torch import Tensor

from rlvis.reward.facts import Facts, states
from rlvis.reward.scorers.jpeg_incompressibility import Quality, jpeg_incompressibility
from rlvis.schema.key import Key


@states(Facts(weights=0))
def jpeg_compressibility(
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]],
    quality: Quality = 95,
    scale: Annotated[
        float, Key("that the size is divided by: 500 in Flow-GRPO, 1 in DDPO", "kB", above=0, most=1e9)
    ] = 500.0,
) -> Tensor:
    """Minus the size of the JPEG file in kB over `scale`: float64 [B] from images uint8 [B, M, 3, Y, X]."""
    return -jpeg_incompressibility(images, prompts, metadata, quality) / scale


ENTRY = jpeg_compressibility
