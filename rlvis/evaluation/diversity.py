"""How different the samples of one prompt are: a policy that collapses draws one picture for all its noise.

Every sample leaves a look, a picture of 8 x 8 means of its colours (first, middle and last frame of a clip),
which is small enough to gather as numbers. The diversity of a prompt is the mean distance (root mean square,
in shares of the full range) between the looks of its samples. It sees composition and colour, no detail.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOOK = "look/"
SIDE = 8


def looks(media: Tensor) -> dict[str, Tensor]:
    """Columns look/0, look/1, ... float64 [N] of media uint8 [N,M,3,Y,X]."""
    frames = sorted({0, media.shape[1] // 2, media.shape[1] - 1})
    small = F.adaptive_avg_pool2d(media[:, frames].flatten(0, 1).float() / 255, SIDE)
    values = small.reshape(len(media), -1) if len(media) else torch.zeros(0, len(frames) * 3 * SIDE**2)
    return {f"{LOOK}{i}": column for i, column in enumerate(values.double().unbind(1))}


def of_prompts(columns: Mapping[str, Tensor], per: int) -> np.ndarray:
    """The diversity of each prompt, repeated for its samples: [P * per], NaN for one sample a prompt.

    columns: of `evaluate`, in the order (prompt, sample).
    """
    names = [name for name in columns if name.startswith(LOOK)]
    look = torch.stack([columns[name] for name in names], dim=1).reshape(-1, per, len(names))
    if per < 2:
        return np.full(len(look) * per, np.nan)
    distances = torch.cdist(look, look) / len(names) ** 0.5  # [P, per, per], 0 on the diagonal
    mean = distances.sum((1, 2)) / (per * (per - 1))
    return np.repeat(mean.numpy(), per)
