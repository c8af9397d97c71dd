"""The rewards that know the truth: they are the checker's scores, and defects cost their half."""

import math

import pytest
import torch
from torch import Tensor

from rlvis.data.world import defects, draw
from rlvis.data.world.language import prompts
from rlvis.data.world.motion import judge_media
from rlvis.reward import function
from rlvis.reward.scorers.checker import checker
from rlvis.reward.scorers.intact import intact

META = [{}] * 4
STILL = ["a red circle", "two blue rings", "a green ring above a red circle", "something"]
CLIP = ["a red circle moving left", "a blue ring circling", "it moves", "a ring moving up"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


@pytest.mark.parametrize("texts", [STILL, CLIP])
def test_the_checker_rewards_what_is_asked_for(texts: list[str]) -> None:
    shown = draw.render(texts, seeded())[:, None] if texts is STILL else draw.render_clips(texts, seeded())
    images = pixels(shown)
    soft = checker(images, texts, META)
    assert soft.dtype == torch.float64
    assert soft.shape == (4,)
    assert (soft > 0.95).all()
    assert torch.equal(soft, judge_media(images, texts).soft)
    assert checker(images, texts, META, measure="hard").tolist() == [1.0] * 4
    other = [texts[1], texts[0], *texts[2:]]
    assert checker(images, other, META, measure="hard").tolist()[:2] == [0.0] * 2
    assert (checker(images, other, META)[:2] < 0.75).all()


def test_defects_cost_their_half() -> None:
    shown = draw.render(STILL, seeded())[:, None]
    images, spoiled = pixels(shown), pixels(defects.add(shown, "blotch", seeded(1))[0])
    whole, less = intact(images, STILL, META), intact(spoiled, STILL, META)
    assert (whole > 0.95).all()
    want = [
        0.5 * float(soft) + 0.5 * math.exp(-float(bad) / 0.02)
        for soft, bad in zip(
            checker(spoiled, STILL, META), defects.severity(spoiled.float() / 255), strict=True
        )
    ]
    assert intact(spoiled, STILL, META, scale=0.02).tolist() == pytest.approx(want)
    assert (less < whole - 0.4).all()
    assert (less > 0.45).all()  # the picture is still what the prompt says


def test_they_are_found_and_refuse_what_they_do_not_know() -> None:
    images = pixels(draw.render(STILL, seeded()))[:, None]
    scorer = function.load("checker", {"measure": "hard"}, "reward.terms.x")
    assert scorer(images, STILL, META).value.tolist() == [1.0] * 4
    with pytest.raises(ValueError, match="asks for a clip"):
        checker(images, prompts(clips=True)[:4], META)
