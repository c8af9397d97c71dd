"""The checker of the shapes world: what a picture shows, and how well that is what its prompt asks for.

Every asked attribute gets a soft degree in [0, 1], dense enough to be a reward, and a hard verdict. What the
prompt leaves open is not looked at. `coverage` is the simpler dense reward that needs no shape to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import torch
from torch import Tensor

from rlvis.data.world import regions
from rlvis.data.world.draw import MOST_THINGS, SIZE
from rlvis.data.world.language import COLOURS, RELATIONS, SHAPES, SIZES, parse
from rlvis.data.world.regions import KEPT, MEMBERSHIP_WIDTH, Regions

NOTHING = ("none", "none")
ATTRIBUTES: tuple[str, ...] = ("count", "colour", "shape", "size", "relation")
COUNT_WIDTH = 0.6
# Offset of centres at which one thing stands clearly left of another: drawn ones are 11 pixels apart or more.
RELATION_OFFSET, RELATION_WIDTH = 4.0, 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """How well B samples show what their prompts ask for.

    soft: float64 [B], mean of the asked degrees. hard: bool [B], everything asked is right. degree: for every
    attribute float64 [B] in [0, 1], NaN where the prompt does not ask for it. right: the same, 1.0 or 0.0.
    """

    soft: Tensor
    hard: Tensor
    degree: dict[str, Tensor]
    right: dict[str, Tensor]


def judge(images: Tensor, prompts: Sequence[str]) -> Judgement:
    """Judge every picture by its prompt.

    Args: images, float [B, 3, Y, X] in [0, 1], square, any size from 16; prompts, B texts, whose motion is
    not looked at (see motion). Returns the Judgement over ATTRIBUTES; on an empty picture everything asked is
    wrong with degree 0. Raises ValueError on images of another shape and on a prompt of another world.
    """
    check_images(images, len(prompts))
    degree, right, _ = match(regions.find(images), prompts)
    return verdict(degree, right)


def verdict(degree: dict[str, Tensor], right: dict[str, Tensor]) -> Judgement:
    """The Judgement from its parts: mean of the asked degrees, all asked right. NaN: not asked."""
    soft = torch.stack(list(degree.values())).nanmean(dim=0)
    return Judgement(soft, ~(torch.stack(list(right.values())) == 0).any(dim=0), degree, right)


def read(images: Tensor) -> list[tuple[str, str]]:
    """Colour and shape of the largest thing on every picture, NOTHING where there is none.

    images: float [B, 3, Y, X] in [0, 1]. Returns B pairs of names.
    """
    check_images(images, len(images))
    largest = regions.find(images)
    colour, shape = largest.colour[:, 0].argmax(dim=1).tolist(), largest.overlap[:, 0].argmax(dim=1).tolist()
    return [
        (list(COLOURS)[c], SHAPES[s]) if there else NOTHING
        for c, s, there in zip(colour, shape, (largest.presence[:, 0] >= 0.5).tolist(), strict=True)
    ]


def thing_masks(images: Tensor) -> Tensor:
    """Opacity of anything that is large enough to be a thing: float32 [B, Y, X] in [0, 1].

    images: float [B, 3, Y, X] in [0, 1]. Black, white and other colours off the palette are no thing.
    """
    check_images(images, len(images))
    opacity, owner = regions.segment(regions.plain(images))
    area = torch.bincount(owner.flatten(), opacity.flatten())
    area[0] = 0.0
    return opacity * (area >= regions.LEAST_AREA * regions.unit_of(images) ** 2)[owner]


@lru_cache(maxsize=65536)
def _wanted(prompt: str) -> tuple[int, list[list[int]], int]:
    """Number of things, their positions in COLOURS, SHAPES and SIZES (-1: open), and that in RELATIONS."""
    request = parse(prompt)
    rows = [[-1] * 3 for _ in range(MOST_THINGS)]
    for row, thing in zip(rows, request.things, strict=False):
        for k, (names, name) in enumerate(
            ((tuple(COLOURS), thing.colour), (SHAPES, thing.shape), (SIZES, thing.size))
        ):
            row[k] = -1 if name is None else names.index(name)
    return len(request.things), rows, -1 if request.relation is None else RELATIONS.index(request.relation)


def match(blobs: Regions, prompts: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Degrees and verdicts, float64 [B] of every attribute (NaN: not asked), and the assignment int64 [B, 3].

    Regions are assigned to the things of the prompt so that the sum of all degrees is largest.
    """
    wanted = [_wanted(prompt) for prompt in prompts]
    number = torch.tensor([row[0] for row in wanted], dtype=torch.long)
    want = torch.tensor([row[1] for row in wanted], dtype=torch.long).reshape(-1, MOST_THINGS, 3)
    relation = torch.tensor([row[2] for row in wanted], dtype=torch.long)

    there = blobs.presence >= 0.5
    degrees, verdicts = {}, {}  # [B, 3 things, K regions]
    sharp = {"colour": blobs.colour, "shape": blobs.overlap, "size": blobs.size}
    for k, name in enumerate(("colour", "shape", "size")):
        index = want[:, :, k].clamp_min(0)[:, :, None].expand(-1, -1, KEPT)
        soft = getattr(blobs, name).transpose(1, 2).gather(1, index) * blobs.presence[:, None]
        asked = want[:, :, k, None] >= 0
        degrees[name] = torch.where(asked, soft.double(), math.nan)
        verdicts[name] = (sharp[name].argmax(dim=2)[:, None] == want[:, :, k, None]) & there[:, None]

    # All ways to assign regions to three things; a prompt of fewer things has ties, which change nothing.
    ways = torch.tensor(list(permutations(range(KEPT), MOST_THINGS)))  # [P, 3]
    things = torch.arange(MOST_THINGS)
    table = sum(d.nan_to_num(0.0) for d in degrees.values()) + 1e-6 * blobs.presence[:, None]
    table = table * (things < number[:, None])[:, :, None]
    stands, clearly = _relations(blobs, ways, relation)
    score = table[:, things, ways].sum(dim=2) + stands * (relation >= 0)[:, None]
    best = score.argmax(dim=1)
    row = torch.arange(len(best))

    # As many regions as asked for, and as many of them things.
    n, like = blobs.number.double(), (blobs.presence.double().sum(dim=1) / number).clamp(max=1)
    degree = {"count": torch.exp(-(((n - number) / COUNT_WIDTH) ** 2)) * like}
    right = {"count": ((blobs.large == number) & (there.sum(dim=1) == number)).double()}
    chosen = ways[best][:, :, None]
    for name in degrees:
        asked = ~degrees[name][:, :, 0].isnan()
        degree[name] = degrees[name].gather(2, chosen)[:, :, 0].nanmean(dim=1)
        all_right = (verdicts[name].gather(2, chosen)[:, :, 0] | ~asked).all(dim=1)
        right[name] = torch.where(asked.any(dim=1), all_right.double(), math.nan)
    degree["relation"] = torch.where(relation >= 0, stands[row, best], math.nan)
    right["relation"] = torch.where(relation >= 0, clearly[row, best].double(), math.nan)
    return degree, right, ways[best]


def _relations(blobs: Regions, ways: Tensor, relation: Tensor) -> tuple[Tensor, Tensor]:
    """Degree and verdict [B, P] of the relation between the first two regions of every assignment."""
    assert RELATIONS == ("left of", "right of", "above", "below")
    first, second = ways[:, 0], ways[:, 1]
    offset = blobs.centre[:, second] - blobs.centre[:, first]  # [B, P, 2]
    axis, sign = (relation.clamp_min(0) // 2), 1.0 - 2.0 * (relation.clamp_min(0) % 2)
    along = offset.gather(2, axis[:, None, None].expand(-1, len(ways), 1))[..., 0] * sign[:, None]
    both = (blobs.presence[:, first] * blobs.presence[:, second]).double()
    degree = torch.sigmoid((along.double() - RELATION_OFFSET) / RELATION_WIDTH) * both
    there = blobs.presence >= 0.5
    return degree, (along > RELATION_OFFSET) & there[:, first] & there[:, second]


def membership(images: Tensor, colours: Tensor) -> Tensor:
    """Nearness exp(-d^2 / w^2) [B, Y, X] of each pixel of images [B, 3, Y, X] to colours [B, 3] or [3]."""
    squared = (images - colours.reshape(-1, 3, 1, 1)).square().sum(dim=1)
    return torch.exp(-squared / MEMBERSHIP_WIDTH**2)


def coverage(images: Tensor, colours: Sequence[str]) -> Tensor:
    """Dense bounded reward: mean over the pixels of the smooth membership to the wanted palette colour.

    Args: images, float [B, 3, Y, X] in [0, 1], any size and device; colours, B names of the palette. Returns
    float64 [B] in [0, 1], differentiable in the images, 1 for an image full of the colour and below 0.06 for
    plain grey. Raises ValueError on an unknown colour or on shapes that do not match.
    """
    _check_float(images, len(colours))
    unknown = sorted(set(colours) - set(COLOURS))
    if unknown:
        raise ValueError(
            f"coverage got colours {unknown} that the palette lacks: choose from {', '.join(COLOURS)}"
        )
    wanted = torch.tensor(
        [COLOURS[name] for name in colours], dtype=torch.float64, device=images.device
    ).reshape(-1, 3)
    return membership(images.double(), wanted).mean(dim=(1, 2))


def check_images(images: Tensor, count: int) -> None:
    """Raise ValueError unless images are float [count, 3, S, S]."""
    _check_float(images, count)
    if images.shape[-1] != images.shape[-2] or images.shape[-1] < SIZE // 2:
        raise ValueError(
            f"the checker reads square pictures of at least {SIZE // 2} pixels a side, got "
            f"{images.shape[-2]} x {images.shape[-1]}"
        )


def _check_float(images: Tensor, count: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] != count or not images.is_floating_point():
        dtype = str(images.dtype).removeprefix("torch.")
        raise ValueError(
            f"images must be float [{count}, 3, Y, X] in [0, 1], one for each prompt, got {dtype} "
            f"{list(images.shape)}"
        )
