"""Which frames of a clip a scorer sees: all, first, last, middle, every N, or a list of positions.

Said for each term (reward.terms.NAME.frames) and never guessed: a scorer for pictures that looks at the
first frame only lets the rest of the clip go to ruin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `positions` serves the checks of a configuration, which do not wait for torch
    from torch import Tensor

    from rlvis.reward.contract import Scorer, Scores

WORDS = "all, first, last, middle, 'every N', or [0,4,8]"


def positions(frames: Any, count: int) -> list[int]:
    """The chosen positions in a clip of `count` frames, ascending for words, as given for a list.

    frames: "all"; "first"; "last"; "middle" (count // 2); "every N" (0, N, 2 N, ...); or whole numbers, -1
    being the last. Raises ValueError for anything else, and for a position that the clip does not have.

    >>> positions("every 4", 9), positions("middle", 9), positions([0, -1], 9)
    ([0, 4, 8], [4], [0, 8])
    """
    if isinstance(frames, str):
        single = {"first": 0, "last": count - 1, "middle": count // 2}
        word, _, number = frames.partition(" ")
        if frames == "all":
            return list(range(count))
        if frames in single:
            return [single[frames]]
        if word == "every" and number.isdecimal() and int(number) > 0:
            return list(range(0, count, int(number)))
    whole = isinstance(frames, Sequence) and not isinstance(frames, str) and len(frames) > 0
    if not whole or not all(isinstance(i, int) and not isinstance(i, bool) for i in frames):
        raise ValueError(f"frames={frames!r}: wanted {WORDS}")
    far = [i for i in frames if not -count <= i < count]
    if far:
        raise ValueError(f"frames={list(frames)}: there is no frame {far[0]} in a clip of {count}")
    return [i % count for i in frames]


@dataclass(frozen=True)
class Chosen:
    """A scorer that is shown the chosen frames only."""

    scorer: Scorer
    frames: Any

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X], of which the scorer sees [B, m, 3, Y, X]."""
        chosen = images[:, positions(self.frames, images.shape[1])]
        return self.scorer(chosen, prompts, metadata)
