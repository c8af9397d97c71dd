"""Which frames a scorer sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.checks.media import media_errors
from rlvis.reward import scorer
from rlvis.reward.frames import positions
from rlvis.schema import RewardConfig, RewardTerm
from tests import setting

CLIP = torch.arange(9).to(torch.uint8).view(1, 9, 1, 1, 1).expand(2, 9, 3, 4, 4)


def brightness(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
    return images.float().mean((1, 2, 3, 4))


@pytest.mark.parametrize(
    ("frames", "chosen"),
    [
        ("all", list(range(9))),
        ("first", [0]),
        ("last", [8]),
        ("middle", [4]),
        ("every 4", [0, 4, 8]),
        ("every 1", list(range(9))),
        ([0, 3], [0, 3]),
        ([5, -1], [5, 8]),
    ],
)
def test_a_scorer_sees_the_chosen_frames(frames: Any, chosen: list[int]) -> None:
    assert positions(frames, 9) == chosen
    term = RewardTerm(scorer=f"{__name__}.brightness", frames=frames)
    (built,) = scorer.build(RewardConfig(terms={"b": term}))
    scores = built.scorer(CLIP, ["a", "b"], [{}, {}])
    assert scores.value.tolist() == pytest.approx([sum(chosen) / len(chosen)] * 2)


@pytest.mark.parametrize(
    "frames", ["some", "every 0", "every", "every x", [], [1.5], [True], 3, None, [9], [-10]]
)
def test_other_words_are_refused(frames: Any) -> None:
    with pytest.raises(ValueError, match="frames="):
        positions(frames, 9)


def test_two_frames_have_a_middle() -> None:
    assert positions("middle", 2) == [1]
    assert positions("middle", 1) == [0]


def test_mistakes_are_told_before_anything_loads() -> None:
    clip = setting.config(Path("x"), model={"frames": 9, "family": "wan"})
    term = clip.reward.terms["jpeg"]

    def errors(chosen: Any, **model: Any) -> list[str]:
        reward = RewardConfig(terms={"jpeg": replace(term, frames=chosen)})
        return list(map(str, media_errors(replace(clip, reward=reward, model=replace(clip.model, **model)))))

    assert errors("all") == errors("every 4") == errors([0, 8]) == errors("all", fps=16.0) == []
    assert "no frame 9" in errors([9])[0]
    assert "type reward.terms.jpeg.frames=all" in errors("frist")[0]
    assert "all of the 1 frames" in errors("first", frames=1)[0]
    assert "does nothing with model.frames=1" in errors("all", frames=1, fps=8.0)[0]
