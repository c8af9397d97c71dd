"""Small pictures of an evaluation's samples: FOLDER/step_000060/p00012.png (.mp4 or .gif for clips), the
first sample of some prompts, by the prompt's position among the held-out ones. Each rank writes those that it
drew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from rlvis.observe import extremes

FPS = extremes.FPS


def keeper(folder: Path, step: int, index: Tensor, most: int, fps: float) -> Callable[[int, Tensor], None]:
    """What takes a prompt's position in the batch and its first sample uint8 [M,3,Y,X], and writes it.

    index: [P], positions among the held-out prompts. most: how many prompts have a picture, spread over all.
    fps: of clips, frames a second.
    """
    chosen = {int(i) for i in np.linspace(0, len(index) - 1, min(most, len(index))).round()}

    def keep(prompt: int, clip: Tensor) -> None:
        if prompt in chosen:
            small = extremes.thumbnails(clip[None])[0]
            name = f"p{int(index[prompt]):05d}{extremes.ending(len(small) > 1)}"
            extremes.picture(small, _of(folder, step) / name, fps)

    return keep


def kept(folder: Path, step: int) -> dict[int, Path]:
    """Position among the held-out prompts -> the file of its first sample."""
    return {int(path.stem[1:]): path for path in sorted(_of(folder, step).glob("p[0-9]*.*"))}


def _of(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"
