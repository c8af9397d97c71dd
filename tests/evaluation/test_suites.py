"""The suite's columns on pictures and clips that are right and wrong by construction."""

from __future__ import annotations

import torch

from rlvis.data.world import draw
from rlvis.evaluation.suites import judge

TEXTS = ["a red circle", "a small blue square"]


def uint8(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


def test_pictures_that_show_their_prompts_are_right_and_others_are_not() -> None:
    drawn = uint8(draw.render(TEXTS, torch.Generator().manual_seed(0)))[:, None]
    columns = judge("shapes", drawn, TEXTS, None)
    assert columns["hard"].tolist() == [1.0, 1.0]
    assert bool((columns["score"] > 0.5).all())
    swapped = judge("shapes", drawn.flip(0), TEXTS, None)
    assert swapped["hard"].tolist() == [0.0, 0.0]
    assert swapped["right/colour"].tolist() == [0.0, 0.0]
    assert all(column.dtype == torch.float64 for column in columns.values())


def test_what_a_prompt_does_not_ask_for_is_nan() -> None:
    drawn = uint8(draw.render(TEXTS, torch.Generator().manual_seed(0)))[:, None]
    columns = judge("shapes", drawn, TEXTS, None)
    for name in ("degree/size", "right/size"):
        assert columns[name].isnan().tolist() == [True, False]


def test_clips_are_judged_with_their_first_frame() -> None:
    texts = ["a red circle moving left", "a blue square moving up"]
    clips = uint8(draw.render_clips(texts, torch.Generator().manual_seed(0)))
    columns = judge("shapes", clips, texts, clips[:, 0])
    assert columns["hard"].tolist() == [1.0, 1.0]
    assert judge("shapes", clips.flip(0), texts, clips[:, 0])["hard"].tolist() == [0.0, 0.0]


def test_no_suite_says_nothing() -> None:
    assert judge("geneval", torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), ["x"], None) == {}
