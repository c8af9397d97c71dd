"""Half the checker's score, half freedom from defects: what the defective tiny policies are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from rlvis.data.world import defects
from rlvis.data.world.motion import judge_media
from rlvis.reward.facts import Facts, states
from rlvis.schema.key import Key


@states(Facts(weights=0, world=True))
def intact(
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]],
    scale: Annotated[
        float,
        Key(
            "severity at which 1 / e of the second half is left; blemishes have 0.02 to 0.035",
            "share of the area",
            above=0,
            most=1,
        ),
    ] = 0.01,
) -> Tensor:
    """Half the checker's soft score, half exp(-severity / scale) of the defects: float64 [B] in [0, 1].

    Images and errors as for `checker`.
    """
    soft = judge_media(images, prompts).soft
    return 0.5 * soft + 0.5 * torch.exp(-defects.severity(images.float() / 255) / scale)


ENTRY = intact
