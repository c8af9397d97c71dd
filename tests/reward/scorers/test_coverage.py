"""The coverage reward on images whose value is known in closed form."""

import math

import pytest
import torch

from rlvis.data.world.checker import MEMBERSHIP_WIDTH
from rlvis.data.world.language import BACKGROUND, COLOURS
from rlvis.reward.scorers.coverage import coverage


def plain(colour: tuple[float, float, float], frames: int = 1) -> torch.Tensor:
    pixel = (torch.tensor(colour) * 255).round().to(torch.uint8)
    return pixel.reshape(1, 1, 3, 1, 1).expand(1, frames, 3, 8, 8).contiguous()


def membership(colour: tuple[float, float, float], wanted: str) -> float:
    """exp(-d^2 / w^2) of a colour after rounding to 8 bits."""
    squared = sum((round(c * 255) / 255 - w) ** 2 for c, w in zip(colour, COLOURS[wanted], strict=True))
    return math.exp(-squared / MEMBERSHIP_WIDTH**2)


@pytest.mark.parametrize("name", COLOURS)
def test_full_colour_and_background(name: str) -> None:
    for colour in (COLOURS[name], BACKGROUND):
        value = coverage(plain(colour), [f"a {name} circle"], [{}])
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(membership(colour, name), rel=1e-5)
    assert float(coverage(plain(COLOURS[name]), [f"a {name} ring"], [{}])) > 0.999


def test_half_an_image_and_frames_are_averaged() -> None:
    full, empty = (membership(c, "red") for c in (COLOURS["red"], BACKGROUND))
    video = torch.cat([plain(COLOURS["red"], 3), plain(BACKGROUND, 1)], dim=1)
    video[:, 0, :, :4] = plain(BACKGROUND)[:, 0, :, :4]
    frames = [(full + empty) / 2, full, full, empty]
    assert float(coverage(video, ["a red square"], [{}])) == pytest.approx(sum(frames) / 4, rel=1e-5)


def test_each_row_has_its_own_colour() -> None:
    images = torch.cat([plain(COLOURS["red"], 3), plain(COLOURS["blue"], 3)])
    right = coverage(images, ["a red ring", "a blue ring"], [{}, {}])
    wrong = coverage(images, ["a blue ring", "a red ring"], [{}, {}])
    assert bool((right > 0.999).all())
    assert bool((wrong < 0.01).all())


def test_a_prompt_of_another_world_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot read the prompt 'a photo'"):
        coverage(plain(BACKGROUND), ["a photo"], [{}])


def test_the_first_thing_decides_and_a_prompt_without_a_colour_is_an_error() -> None:
    images = plain(COLOURS["red"], 3)
    for prompt in ("two red rings", "a red circle left of a blue ring", "something red moving"):
        assert float(coverage(images, [prompt], [{}])) > 0.999
    assert float(coverage(images, ["a blue ring left of a red circle"], [{}])) < 0.01
    with pytest.raises(ValueError, match="'two circles' names none"):
        coverage(images, ["two circles"], [{}])
