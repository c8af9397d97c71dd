"""What a suite says about samples: columns of numbers, one value a sample, NaN where nothing was asked.

shapes: the checker of the shapes world, which knows the truth about every picture and clip of that world; it
is never a reward of the same run unless somebody asks for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlvis.schema import SHAPES

SCORE, HARD, DEGREE, RIGHT = "score", "hard", "degree/", "right/"


def judge(suite: str, media: Tensor, texts: Sequence[str], first: Tensor | None) -> dict[str, Tensor]:
    """Columns float64 [B] of samples uint8 [B,M,3,Y,X]; none for any suite but shapes.

    first: the condition frames uint8 [B,3,Y,X] of image-to-video. score: how far the sample does what the
    prompt says, in [0, 1]; hard: 1 when everything is right; degree/A and right/A: the same for attribute A.
    """
    if suite != SHAPES:
        return {}
    from rlvis.data.world import motion

    verdicts = motion.judge_media(media, list(texts), first)
    columns = {SCORE: verdicts.soft.double(), HARD: verdicts.hard.double()}
    for name, degree in verdicts.degree.items():
        columns[DEGREE + name] = degree.double()
    for name, right in verdicts.right.items():
        degrees = columns.get(DEGREE + name)
        values = right.double()
        columns[RIGHT + name] = values if degrees is None else torch.where(degrees.isnan(), math.nan, values)
    return columns
