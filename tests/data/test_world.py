"""The shapes world: its drawings are repeatable, read back, and rewarded within bounds; its split keeps
compositions apart.
"""

import pytest
import torch

from rlvis.data import world


def draw(prompts: list[str], seed: int = 0) -> torch.Tensor:
    return world.render(prompts, torch.Generator().manual_seed(seed))


def test_same_seed_draws_the_same_images_and_another_seed_does_not() -> None:
    prompts = world.prompts()
    first = draw(prompts, seed=3)
    assert first.shape == (24, 3, 32, 32)
    assert first.dtype == torch.float32
    assert torch.equal(first, draw(prompts, seed=3))
    # Every image moves, not only some.
    assert (first != draw(prompts, seed=4)).flatten(1).any(dim=1).all()


def test_an_image_depends_on_its_own_row_of_numbers_only() -> None:
    """Row b uses uniform numbers 3b .. 3b+2: a later or another prompt does not move an earlier image."""
    longer = draw(["a red circle", "a blue ring", "a cyan square"])
    assert torch.equal(longer[:2], draw(["a red circle", "a blue ring"]))
    other = draw(["a green circle", "a blue ring"])
    assert torch.equal(longer[1], other[1])


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", torch.pi), ("square", 4.0), ("triangle", 2.0), ("ring", 0.75 * torch.pi)]
)
def test_drawn_area_is_the_closed_form(shape: str, area: float) -> None:
    """Summed opacity of a drawing of half extent h is area * h^2; h is the first uniform number scaled to the
    range.
    """
    count = 50
    uniform = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    low, high = world.HALF_EXTENT
    half = low + (high - low) * uniform[:, 0]
    images = draw([f"a red {shape}"] * count, seed=1)
    alpha = (images[:, 0] - 0.5) / (world.COLOURS["red"][0] - 0.5)
    # Pixels at a corner or on a curve are covered by 1/2 - d only nearly: up to one pixel of the smallest
    # triangle's 72.
    torch.testing.assert_close(
        alpha.sum(dim=(1, 2)) / half**2, torch.full((count,), area), rtol=0.0, atol=0.03
    )


def test_images_stay_in_range_and_their_border_is_background() -> None:
    images = draw(world.prompts() * 20)
    assert images.min() >= 0
    assert images.max() <= 1
    for edge in (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]):
        torch.testing.assert_close(edge, torch.full_like(edge, 0.5))


@pytest.mark.parametrize("scale", [1, 2])
def test_the_checker_reads_drawings_back(scale: int) -> None:
    prompts = world.prompts() * 20
    images = torch.nn.functional.interpolate(draw(prompts), scale_factor=scale, mode="bilinear")
    right = world.matches(images, prompts)
    assert right.shape == (480, 2)
    assert right.double().mean(dim=0).min() >= 0.97


def test_the_checker_reads_noisy_drawings_and_sees_nothing_on_grey() -> None:
    prompts = world.prompts() * 10
    noise = 0.05 * torch.randn(len(prompts), 3, 32, 32, generator=torch.Generator().manual_seed(2))
    images = (draw(prompts) + noise).clamp(0, 1)
    assert world.matches(images, prompts).double().mean(dim=0).min() >= 0.97
    assert world.read(torch.full((2, 3, 32, 32), 0.5)) == [world.NOTHING, world.NOTHING]


def test_the_checker_calls_a_wrong_prompt_wrong() -> None:
    images = draw(["a red circle", "a red circle", "a red circle"])
    right = world.matches(images, ["a red circle", "a red square", "a blue circle"])
    assert right.tolist() == [[True, True], [True, False], [False, True]]


def test_coverage_of_plain_images() -> None:
    """1 on the colour itself, exp(-d^2 / w^2) at distance d of it, and near nothing on grey."""
    names = list(world.COLOURS)
    palette = torch.tensor(list(world.COLOURS.values())).reshape(-1, 3, 1, 1)
    full = palette.expand(-1, 3, 5, 7)
    torch.testing.assert_close(world.coverage(full, names), torch.ones(6, dtype=torch.float64))
    d = 0.1
    moved = full.clone()
    moved[:, 0] += d
    want = torch.full((6,), -(d**2) / world.MEMBERSHIP_WIDTH**2, dtype=torch.float64).exp()
    torch.testing.assert_close(world.coverage(moved, names), want, rtol=0.0, atol=1e-6)
    assert world.coverage(torch.full((6, 3, 5, 7), 0.5), names).max() < 0.06


def test_coverage_is_bounded_and_rises_with_the_area_of_the_colour() -> None:
    noise = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    values = world.coverage(noise, list(world.COLOURS))
    assert values.dtype == torch.float64
    assert ((values >= 0) & (values <= 1)).all()
    for name, rgb in world.COLOURS.items():
        images = torch.full((5, 3, 32, 32), 0.5)
        for i in range(5):
            images[i, :, : 8 * i] = torch.tensor(rgb)[:, None, None]
        assert (world.coverage(images, [name] * 5).diff() > 0.2).all()


def test_coverage_prefers_the_prompts_colour_and_passes_gradients() -> None:
    image = draw(["a green square"]).expand(6, -1, -1, -1).clone().requires_grad_()
    values = world.coverage(image, list(world.COLOURS))
    assert list(world.COLOURS)[int(values.argmax())] == "green"
    values.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_the_split_is_disjoint_complete_and_shares_every_colour_and_shape() -> None:
    train, heldout = world.prompts("train"), world.prompts("heldout")
    assert len(train) == 18
    assert len(heldout) == 6
    assert not set(train) & set(heldout)
    assert set(train) | set(heldout) == set(world.prompts())
    assert [f"a {colour} {shape}" for colour, shape in map(world.parse, heldout)] == heldout
    for side in (train, heldout):
        parsed = [world.parse(prompt) for prompt in side]
        assert {colour for colour, _ in parsed} == set(world.COLOURS)
        assert {shape for _, shape in parsed} == set(world.SHAPES)


@pytest.mark.parametrize(
    "prompt", ["a pink circle", "a red blob", "red circle", "two red circles", "", "a red circle !"]
)
def test_a_prompt_of_another_world_is_named(prompt: str) -> None:
    with pytest.raises(ValueError, match="shapes world") as caught:
        world.parse(prompt)
    assert repr(prompt) in str(caught.value)
    with pytest.raises(ValueError, match="shapes world"):
        draw(["a red circle", prompt])


def test_bad_arguments_are_refused_with_what_was_got() -> None:
    images = draw(["a red circle"])
    with pytest.raises(ValueError, match="no split 'test'"):
        world.prompts("test")
    with pytest.raises(ValueError, match="pink"):
        world.coverage(images, ["pink"])
    with pytest.raises(ValueError, match=r"float \[2, 3, Y, X\].*\[1, 3, 32, 32\]"):
        world.coverage(images, ["red", "red"])
    with pytest.raises(ValueError, match="uint8"):
        world.read((images * 255).to(torch.uint8))
