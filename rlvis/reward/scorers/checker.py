"""The shapes world's own checker: how well samples show what the prompt asks for.

Unlike `coverage` it cannot be raised without drawing what is asked for. Pictures and clips go the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from torch import Tensor

from rlvis.data.world.motion import judge_media
from rlvis.reward.facts import Facts, states
from rlvis.schema.key import Key


@states(Facts(weights=0, world=True))
def checker(
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]],
    measure: Annotated[
        str,
        Key(
            "soft: the mean of the asked degrees, dense; hard: 1 where everything asked is right",
            choices=("soft", "hard"),
        ),
    ] = "soft",
) -> Tensor:
    """Float64 [B] in [0, 1] of images uint8 [B, M, 3, S, S]. Raises ValueError on a prompt that is not of the
    shapes world, and on one that moves for single frames.
    """
    judged = judge_media(images, prompts)
    return judged.soft if measure == "soft" else judged.hard.double()


ENTRY = checker
