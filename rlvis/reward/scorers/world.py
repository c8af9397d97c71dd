"""The rewards of the shapes world that know the truth: what the prompt asks for, and freedom from defects.

Unlike `coverage` they cannot be raised without drawing what is asked for. Pictures and clips go the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.data.world import defects
from rlvis.data.world.motion import judge_media

MEASURES = ("soft", "hard")


def checker(
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]],
    measure: str = "soft",
) -> Tensor:
    """How well the samples show what the prompts ask for: float64 [B] in [0, 1].

    Args: images, uint8 [B, M, 3, S, S]; measure, "soft" (mean of the asked degrees, dense) or "hard" (1 where
    everything asked is right). Raises ValueError on a prompt that is not of the shapes world, on one that
    moves for single frames, and on another measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r}: the checker measures {' or '.join(MEASURES)}")
    judged = judge_media(images, prompts)
    return judged.soft if measure == "soft" else judged.hard.double()


def intact(
    images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]], scale: float = 0.01
) -> Tensor:
    """Half the checker's soft score, half exp(-severity / scale) of the defects: float64 [B] in [0, 1].

    scale: the severity (share of spoiled area) at which 1 / e of the second half is left; blemishes have 0.02
    to 0.035. Images and errors as for `checker`; ValueError when the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale}: wanted a positive share of the area, for example 0.01")
    soft = judge_media(images, prompts).soft
    return 0.5 * soft + 0.5 * torch.exp(-defects.severity(images.float() / 255) / scale)
