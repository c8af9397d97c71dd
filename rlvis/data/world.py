"""The shapes world: one coloured shape on grey, drawn, rewarded and read back by closed forms in torch alone.

Every image is an antialiased signed-distance drawing of one of 6 colours x 4 shapes at a random place and
size, so a run needs no download, and the truth about every sample is known. `coverage` is the dense bounded
reward (share of pixels near the prompt's colour; it can be raised without drawing the right shape), `read`
the hard checker that says so. Images are float [B, 3, Y, X] in [0, 1], rows from the top.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SIZE = 32  # pixels on a side of a drawn image
BACKGROUND = (0.5, 0.5, 0.5)
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.12, 0.12),
    "green": (0.12, 0.66, 0.20),
    "blue": (0.12, 0.26, 0.90),
    "yellow": (0.96, 0.86, 0.12),
    "purple": (0.66, 0.16, 0.84),
    "cyan": (0.12, 0.84, 0.88),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "ring")
SPLITS: tuple[str, ...] = ("train", "heldout")

# Half extents of the drawn shapes in pixels, and how far a shape stays from the border.
HALF_EXTENT = (6.0, 11.0)
MARGIN = 1.0
# Width of the colour membership: grey and every other palette colour lie at least 0.5 away, where it is below
# exp(-2.7) = 0.07.
MEMBERSHIP_WIDTH = 0.30
# Below this much drawn area (pixels of a 32 px image) the checker sees nothing.
LEAST_AREA = 12.0
NOTHING = ("none", "none")


def prompts(split: str | None = None) -> list[str]:
    """All prompts of the world, "a red circle" and so on, in a fixed order (colour-major).

    The split is by composition: "heldout" keeps one shape of every colour (6 prompts), "train" the other 18,
    so each colour and each shape occurs on both sides and no composition does. None gives all 24. Raises
    ValueError on another name.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(
            f"the shapes world has no split {split!r}: choose one of {', '.join(SPLITS)}, "
            "or None for all prompts"
        )
    chosen = []
    for i, colour in enumerate(COLOURS):
        for j, shape in enumerate(SHAPES):
            side = "heldout" if j == i % len(SHAPES) else "train"
            if split in (None, side):
                chosen.append(f"a {colour} {shape}")
    return chosen


def parse(prompt: str) -> tuple[str, str]:
    """Colour and shape that a prompt such as "a red circle" names.

    Raises ValueError naming the prompt when it is not of this world.
    """
    words = prompt.split()
    if len(words) == 3 and words[0] == "a" and words[1] in COLOURS and words[2] in SHAPES:
        return words[1], words[2]
    raise ValueError(
        f"cannot read the prompt {prompt!r}: the shapes world knows 'a COLOUR SHAPE' with COLOUR one of "
        f"{', '.join(COLOURS)} and SHAPE one of {', '.join(SHAPES)}; for example 'a red circle'"
    )


def render(prompts: Sequence[str], generator: torch.Generator) -> Tensor:
    """Draw one image for each prompt at a random place and size.

    Args: prompts, B texts that `parse` reads; generator, a CPU generator, advanced by exactly 3 B uniform
    numbers (row b uses numbers 3b .. 3b+2: half extent, x, y), so the same seed and prompts give the same
    images.
    Returns float32 [B, 3, 32, 32] in [0, 1]. Raises ValueError on a prompt of another world.
    """
    parsed = [parse(prompt) for prompt in prompts]
    uniform = torch.rand(len(parsed), 3, generator=generator)
    low, high = HALF_EXTENT
    half = low + (high - low) * uniform[:, 0]
    place = half[:, None] + MARGIN + (SIZE - 2 * MARGIN - 2 * half)[:, None] * uniform[:, 1:]
    kinds = torch.tensor([SHAPES.index(shape) for _, shape in parsed], dtype=torch.long)
    colour = torch.tensor([COLOURS[name] for name, _ in parsed]).reshape(-1, 3, 1, 1)
    background = torch.tensor(BACKGROUND).reshape(1, 3, 1, 1)
    # A pixel whose centre lies d pixels outside the outline is covered by about 1/2 - d of its area.
    alpha = (0.5 - _signed_distance(kinds, place[:, 0], place[:, 1], half)).clamp(0, 1)[:, None]
    return background + alpha * (colour - background)


def _signed_distance(kinds: Tensor, x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    """Distance in pixels [B, 32, 32] of pixel centres to the outline, negative inside.

    kinds, x, y, half: [B], index of the shape, centre and half extent. All shapes fill a box of 2 half x
    2 half; outside a corner the distance is the largest half-plane distance, exact enough for one pixel of
    antialiasing.
    """
    centres = torch.arange(SIZE, dtype=half.dtype) + 0.5
    h = half[:, None, None]
    dx = (centres[None, None, :] - x[:, None, None]).expand(-1, SIZE, -1)
    dy = (centres[None, :, None] - y[:, None, None]).expand(-1, -1, SIZE)
    radius = torch.hypot(dx, dy)
    # Upright triangle: base at the bottom, sides 2|x| = y + h with slope 2 (unit normal (2, -1) / sqrt 5).
    sides = (2 * dx.abs() - (dy + h)) / 5**0.5
    box = torch.maximum(dx.abs(), dy.abs()) - h
    distances = {
        "circle": radius - h,
        "square": box,
        "triangle": torch.maximum(sides, box),
        "ring": (radius - 0.75 * h).abs() - 0.25 * h,
    }
    stacked = torch.stack([distances[shape] for shape in SHAPES], dim=1)
    return stacked[torch.arange(len(kinds)), kinds]


def _membership(images: Tensor, colours: Tensor) -> Tensor:
    """Nearness exp(-d^2 / w^2) [B, Y, X] of each pixel of images [B, 3, Y, X] to colours [B, 3] or [3]."""
    squared = (images - colours.reshape(-1, 3, 1, 1)).square().sum(dim=1)
    return torch.exp(-squared / MEMBERSHIP_WIDTH**2)


def coverage(images: Tensor, colours: Sequence[str]) -> Tensor:
    """Dense bounded reward: mean over the pixels of the smooth membership to the wanted palette colour.

    Args: images, float [B, 3, Y, X] in [0, 1], any size and device; colours, B names of the palette. Returns
    float64 [B] in [0, 1], differentiable in the images, 1 for an image full of the colour and below 0.06 for
    plain grey. Raises ValueError on an unknown colour or on shapes that do not match.
    """
    _check_images(images, len(colours))
    unknown = sorted(set(colours) - set(COLOURS))
    if unknown:
        raise ValueError(
            f"coverage got colours {unknown} that the palette lacks: choose from {', '.join(COLOURS)}"
        )
    wanted = torch.tensor(
        [COLOURS[name] for name in colours], dtype=torch.float64, device=images.device
    ).reshape(-1, 3)
    return _membership(images.double(), wanted).mean(dim=(1, 2))


def read(images: Tensor) -> list[tuple[str, str]]:
    """Say which colour and shape each image shows: the hard checker.

    Colour: the palette colour with the largest summed membership. Shape: a hole in the middle is a ring, else
    the share of its bounding box that the object fills: square 1, circle pi/4, triangle 1/2. Extents are sums
    of row and column maxima, so they keep the antialiased fractions of a pixel. An image with (almost)
    nothing on it reads ("none", "none").
    Args: images, float [B, 3, Y, X] in [0, 1]. Returns B pairs of names.
    """
    _check_images(images, len(images))
    images = images.detach().float().cpu()
    palette = torch.tensor(list(COLOURS.values()))
    votes = torch.stack([_membership(images, colour).sum(dim=(1, 2)) for colour in palette], dim=1)
    picked = votes.argmax(dim=1)

    # Opacity: the pixel's position between background and colour, its tails cut so that faint noise does not
    # widen the box.
    background = torch.tensor(BACKGROUND)
    direction = palette[picked] - background
    along = torch.einsum("bcyx,bc->byx", images - background[:, None, None], direction)
    alpha = ((along / direction.square().sum(dim=1)[:, None, None] - 0.25) / 0.5).clamp(0, 1)

    columns, rows = alpha.amax(dim=1), alpha.amax(dim=2)
    width, height, area = columns.sum(dim=1), rows.sum(dim=1), alpha.sum(dim=(1, 2))
    fill = area / (width * height).clamp_min(1e-6)
    hollow = _middle(alpha, columns, rows, (width + height) / 2) < 0.5
    least = LEAST_AREA * images.shape[-1] * images.shape[-2] / SIZE**2
    names = []
    for b in range(len(images)):
        if area[b] < least:
            names.append(NOTHING)
            continue
        solid = "square" if fill[b] > 0.89 else "circle" if fill[b] > 0.64 else "triangle"
        names.append((list(COLOURS)[int(picked[b])], "ring" if hollow[b] else solid))
    return names


def _middle(alpha: Tensor, columns: Tensor, rows: Tensor, extent: Tensor) -> Tensor:
    """Mean opacity [B] under a Gaussian of a tenth of the extent about the middle of the box."""
    weights = []
    for profile in (rows, columns):
        at = torch.arange(profile.shape[1], dtype=profile.dtype) + 0.5
        middle = (profile * at).sum(dim=1) / profile.sum(dim=1).clamp_min(1e-6)
        weights.append(
            torch.exp(-0.5 * ((at - middle[:, None]) / (0.1 * extent[:, None]).clamp_min(0.5)) ** 2)
        )
    window = weights[0][:, :, None] * weights[1][:, None, :]
    return (alpha * window).sum(dim=(1, 2)) / window.sum(dim=(1, 2))


def matches(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Hard truth of every image against its prompt: bool [B, 2], colour right and shape right.

    Args: images, float [B, 3, Y, X] in [0, 1]; prompts, B texts. Raises ValueError as `parse` and `read` do.
    """
    _check_images(images, len(prompts))
    pairs = [
        [seen == wanted for seen, wanted in zip(found, parse(prompt), strict=True)]
        for found, prompt in zip(read(images), prompts, strict=True)
    ]
    return torch.tensor(pairs, dtype=torch.bool).reshape(-1, 2)


def _check_images(images: Tensor, count: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] != count or not images.is_floating_point():
        dtype = str(images.dtype).removeprefix("torch.")
        raise ValueError(
            f"images must be float [{count}, 3, Y, X] in [0, 1], one for each prompt, got {dtype} "
            f"{list(images.shape)}"
        )
