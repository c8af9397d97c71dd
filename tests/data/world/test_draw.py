"""The drawings of the shapes world: repeatable, of exact area, inside, apart, and true to the prompt."""

import pytest
import torch

from rlvis.data.world import draw
from rlvis.data.world.draw import FRAMES, MARGIN, SIZE, SIZE_BOUNDARY, Scenes
from rlvis.data.world.language import BACKGROUND, COLOURS, DIRECTIONS, SHAPES, parse, prompts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(scene: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper corners [B, M, 3, 2] of all things."""
    half = scene.half[:, None, :, None]
    return scene.centre - half, scene.centre + half


@pytest.mark.parametrize("clips", [False, True])
def test_same_seed_draws_the_same_and_another_seed_does_not(clips: bool) -> None:
    texts = prompts(clips=clips)[::5]
    make = draw.render_clips if clips else draw.render
    first = make(texts, seeded(3))
    assert first.shape == (len(texts), *((FRAMES,) if clips else ()), 3, SIZE, SIZE)
    assert first.dtype == torch.float32
    assert torch.equal(first, make(texts, seeded(3)))
    assert (first != make(texts, seeded(4))).flatten(1).any(dim=1).all()


def test_a_picture_depends_on_its_own_row_of_numbers_only() -> None:
    longer = draw.render(["a red circle", "two blue rings", "something"], seeded())
    assert torch.equal(longer[:2], draw.render(["a red circle", "two blue rings"], seeded()))
    assert torch.equal(longer[1], draw.render(["three objects", "two blue rings"], seeded())[1])


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", torch.pi), ("square", 4.0), ("triangle", 2.0), ("ring", 0.75 * torch.pi)]
)
def test_drawn_area_is_the_closed_form(shape: str, area: float) -> None:
    scene = draw.scenes([f"a {shape}"] * 50, seeded(1))
    drawn = draw.coverage_masks(scene)[:, 0, 0].sum(dim=(1, 2))
    # Pixels at a corner or on a curve are covered by 1/2 - d only nearly: up to one pixel of the smallest
    # triangle's 50.
    torch.testing.assert_close(drawn / scene.half[:, 0] ** 2, torch.full((50,), area), rtol=0.0, atol=0.03)


def test_a_larger_picture_shows_the_same_scene() -> None:
    scene = draw.scenes(prompts()[::7], seeded(2))
    small, large = draw.paint(scene)[:, 0], draw.paint(scene, 2 * SIZE)[:, 0]
    away = torch.nn.functional.avg_pool2d(large, 2) - small
    # Antialiasing by the distance of the centre is off by up to a quarter of a pixel at a triangle's tip.
    assert away.abs().max() < 0.2
    assert away.abs().mean() < 2e-3


@pytest.mark.parametrize("clips", [False, True])
def test_things_stay_inside_and_apart(clips: bool) -> None:
    texts = prompts(clips=clips)[:: 2 if clips else 1] * (1 if clips else 5)
    scene = draw.scenes(texts, seeded(5), FRAMES if clips else 1)
    low, high = boxes(scene)
    there = scene.present[:, None].expand(-1, low.shape[1], -1)
    assert low[there].min() >= MARGIN - 1e-4
    assert high[there].max() <= SIZE - MARGIN + 1e-4
    assert scene.present.sum(dim=1).tolist() == [len(parse(text).things) for text in texts]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        # Two boxes are apart when they are so along one axis: by both margins.
        gap = torch.maximum(low[:, :, i] - high[:, :, j], low[:, :, j] - high[:, :, i]).amax(dim=-1)
        assert (gap[there[..., i] & there[..., j]] >= 2 * MARGIN - 1e-4).all()
    pixels = draw.paint(scene)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    for edge in (pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1]):
        torch.testing.assert_close(edge, torch.full_like(edge, BACKGROUND[0]))


@pytest.mark.parametrize("clips", [False, True])
def test_the_scene_is_what_the_prompt_says(clips: bool) -> None:
    texts = prompts(clips=clips) * 5
    scene = draw.scenes(texts, seeded(6), FRAMES if clips else 1)
    for b, text in enumerate(texts):
        request = parse(text)
        for i, thing in enumerate(request.things):
            assert thing.colour in (None, list(COLOURS)[scene.colour[b, i]])
            assert thing.shape in (None, SHAPES[scene.shape[b, i]])
            assert thing.size in (None, "small" if scene.half[b, i] < SIZE_BOUNDARY else "large")
        first, second = scene.centre[b, 0, 0], scene.centre[b, 0, 1]
        if request.relation:
            axis = 0 if request.relation in ("left of", "right of") else 1
            offset = float((second - first)[axis])
            assert offset > 0 if request.relation in ("left of", "above") else offset < 0


def test_things_move_as_the_prompt_says() -> None:
    texts = prompts(clips=True) * 3
    scene = draw.scenes(texts, seeded(7), FRAMES)
    for text, centre in zip(texts, scene.centre[:, :, 0], strict=True):
        motion = parse(text).motion
        assert motion is not None
        covered = centre.amax(dim=0) - centre.amin(dim=0)
        net = centre[-1] - centre[0]
        if motion.path == "resting":
            assert covered.max() == 0
            continue
        assert covered.max() > 4, f"{text} rests"
        if motion.path == "straight":
            towards = torch.tensor(DIRECTIONS[str(motion.direction)], dtype=torch.float32)
            torch.testing.assert_close(net, towards * net.abs().max())
            assert motion.speed is None or (net.norm() > draw.TRAVEL_BOUNDARY) == (motion.speed == "quickly")
        elif motion.path is not None:
            torch.testing.assert_close(net, torch.zeros(2), rtol=0.0, atol=1e-4)
            assert (covered.min() > 4) == (motion.path == "circling")


def test_what_is_left_open_varies_and_a_still_prompt_rests() -> None:
    scene = draw.scenes(["something"] * 200, seeded(8), FRAMES)
    assert set(scene.colour[:, 0].tolist()) == set(range(len(COLOURS)))
    assert set(scene.shape[:, 0].tolist()) == set(range(len(SHAPES)))
    assert torch.equal(scene.centre, scene.centre[:, :1].expand_as(scene.centre))


def test_bad_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'it moves' moves, which one frame cannot show.*frames=9"):
        draw.render(["it moves"], seeded())
    with pytest.raises(ValueError, match="cannot read the prompt 'a photo'"):
        draw.render(["a red circle", "a photo"], seeded())
