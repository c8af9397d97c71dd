"""What the shapes world says of its prompts, and the frames that its clips start from."""

from __future__ import annotations

import pytest
import torch

from rlvis.data import sampler, shapes
from rlvis.data.prompts import load_prompts
from rlvis.data.world import language
from rlvis.schema import DataConfig


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "a small red circle",
            {
                "kind": "size",
                "clear": True,
                "things": [{"colour": "red", "shape": "circle", "size": "small"}],
            },
        ),
        (
            "a red circle left of a blue ring",
            {
                "kind": "relation",
                "clear": True,
                "things": [{"colour": "red", "shape": "circle"}, {"colour": "blue", "shape": "ring"}],
                "relation": "left of",
            },
        ),
        (
            "a red circle moving up slowly",
            {
                "kind": "speed",
                "clear": True,
                "things": [{"colour": "red", "shape": "circle"}],
                "motion": {"path": "straight", "direction": "up", "speed": "slowly"},
            },
        ),
        ("it moves", {"kind": "ambiguous", "clear": False, "things": [{}], "motion": {}}),
        ("a circle", {"kind": "underspecified", "clear": False, "things": [{"shape": "circle"}]}),
    ],
)
def test_metadata_say_what_a_prompt_names(text: str, wanted: dict[str, object]) -> None:
    assert shapes.metadata(language.parse(text)) == wanted


def test_a_frame_depends_on_its_prompt_alone() -> None:
    def loaded(**changes: object) -> dict[str, torch.Tensor]:
        config = DataConfig(source="shapes_i2v", prompts_per_step=1, samples_per_prompt=2, **changes)  # type: ignore[arg-type]
        prompts = load_prompts(config)
        frames = sampler.select(prompts, range(len(prompts))).frames
        assert frames is not None
        assert frames.dtype == torch.uint8
        assert frames.shape == (len(prompts), 3, 32, 32)
        return dict(zip(prompts.texts, frames, strict=True))

    whole, some = loaded(), loaded(kinds=["path"])
    assert 0 < len(some) < len(whole)
    assert all(torch.equal(frame, whole[text]) for text, frame in some.items())
    different = {frame.numpy().tobytes() for frame in whole.values()}
    assert len(different) == len(whole)


def test_a_frame_shows_the_thing_that_its_prompt_names() -> None:
    texts = [f"a {colour} square moving left" for colour in language.COLOURS]
    frames = shapes.first_frames(texts).float() / 255
    for frame, colour in zip(frames, language.COLOURS.values(), strict=True):
        near = (frame - torch.tensor(colour).view(3, 1, 1)).abs().amax(0) < 0.01
        assert 90 < int(near.sum()) < 240  # a square of 12 to 15 pixels, but for its edges


def test_a_step_brings_the_frames_of_its_prompts() -> None:
    prompts = load_prompts(DataConfig(source="shapes_i2v", prompts_per_step=4, samples_per_prompt=2))
    step = sampler.batch(prompts, 3, 4, True, 0)
    assert step.frames is not None
    assert torch.equal(step.frames, shapes.first_frames(step.texts))
    still = load_prompts(DataConfig(source="shapes_video", prompts_per_step=4, samples_per_prompt=2))
    assert sampler.batch(still, 3, 4, True, 0).frames is None
