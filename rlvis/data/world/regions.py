"""The regions of a picture that may be things, and what each looks like: the checker's eyes.

Regions are connected foreground. Their shape is the template of equal area and centroid that overlaps them
best, so places and sizes are read from smooth moments, to a fraction of a pixel, and not from pixel boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.data.world.draw import SIZE, SIZE_BOUNDARY, signed_distance
from rlvis.data.world.language import BACKGROUND, COLOURS, SHAPES, SIZES

# Width of the colour membership: grey and every other palette colour lie at least 0.5 away, where it is below
# exp(-2.7) = 0.07.
MEMBERSHIP_WIDTH = 0.30
LEAST_AREA = 12.0  # pixels of a 32 px picture; a smaller region is no thing (the smallest drawn one has 40)

# Colours further than this from every blend of grey with a palette colour are no thing (black lies 0.7 away).
OFF_PALETTE, OFF_PALETTE_WIDTH = 0.35, 0.04
KEPT = 4  # the largest regions of a picture that are matched to the things of a prompt
AREA_WIDTH = 1.5  # pixels
# A region that overlaps no template this well is clutter: it counts as a region, but is no thing that was
# asked for. Noise comes to 0.36.
LIKENESS, LIKENESS_WIDTH = 0.50, 0.03
# Real drawings overlap their template by 0.98 or more and that of another shape by 0.84 or less.
OVERLAP, OVERLAP_WIDTH, OVERLAP_MARGIN = 0.70, 0.06, 0.04
SIZE_WIDTH = 0.45  # pixels of half extent
# Area over the squared half extent, and how far the centroid lies below the box's middle in half extents.
AREA = {"circle": math.pi, "square": 4.0, "triangle": 2.0, "ring": 0.75 * math.pi}
DROP = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3, "ring": 0.0}


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The K = 4 largest regions of B pictures, largest first; lengths in pixels of a 32 px side.

    presence: [B, K] in [0, 1], large enough and like any shape, 0 where there is none; colour: [B, K, 6],
    shape: [B, K, 4] and size: [B, K, 2], degrees in [0, 1]; overlap: [B, K, 4], with the templates; half:
    [B, K], half extent; centre: [B, K, 2], centroid (x, y). number: [B], smooth count of all regions of any
    form; large: int64 [B], hard count of them. All float32 where not said otherwise.
    """

    presence: Tensor
    colour: Tensor
    shape: Tensor
    overlap: Tensor
    size: Tensor
    half: Tensor
    centre: Tensor
    number: Tensor
    large: Tensor


def find(images: Tensor) -> Regions:
    """Find and measure the regions of float images [B, 3, S, S] in [0, 1]."""
    images = plain(images)
    count, unit = len(images), unit_of(images)
    opacity, owner = segment(images)
    area = torch.bincount(owner.flatten(), opacity.flatten()) / unit**2
    picture = torch.zeros(len(area), dtype=torch.long)
    picture[owner.flatten()] = torch.arange(count).repeat_interleave(owner[0].numel() if count else 0)
    area, picture = area[1:], picture[1:]
    presence = torch.sigmoid((area - LEAST_AREA) / AREA_WIDTH)
    number = torch.zeros(count).index_add(0, picture, presence)
    large = torch.zeros(count, dtype=torch.long).index_add(0, picture, (area >= LEAST_AREA).long())

    # The largest few of every picture: sorted by area, then (stably) by picture.
    order = area.argsort(descending=True)
    order = order[picture[order].argsort(stable=True)]
    start = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(picture, minlength=count).cumsum(0)])
    rank = torch.arange(len(order)) - start[picture[order]]
    order, rank = order[rank < KEPT], rank[rank < KEPT]
    at = (picture[order], rank)
    mask = opacity[at[0]] * (owner[at[0]] == (order + 1)[:, None, None])
    overlap, half, centre = _shapes(mask, area[order], unit)

    def placed(values: Tensor) -> Tensor:
        return values.new_zeros(count, KEPT, *values.shape[1:]).index_put(at, values)

    like = torch.sigmoid((overlap.amax(dim=1) - LIKENESS) / LIKENESS_WIDTH)
    small = torch.sigmoid((SIZE_BOUNDARY - half) / SIZE_WIDTH)
    assert SIZES == ("small", "large")
    return Regions(
        presence=placed(presence[order] * like),
        colour=placed(_colours(images[at[0]], mask)),
        shape=placed(_shape_degrees(overlap)),
        overlap=placed(overlap),
        size=placed(torch.stack([small, 1 - small], dim=1)),
        half=placed(half),
        centre=placed(centre),
        number=number,
        large=large,
    )


def plain(images: Tensor) -> Tensor:
    """Images on the CPU as float32 in [0, 1], with grey for what is no number."""
    return images.detach().to("cpu", torch.float32).nan_to_num(0.5).clamp(0, 1)


def unit_of(images: Tensor) -> float:
    """Pixels of these images to a pixel of a 32 px side."""
    return float(images.shape[-1]) / SIZE


def segment(images: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity of the foreground [B, Y, X], and the region that each pixel belongs to, int64, 0 for none.

    Regions are numbered through the batch. They hold the pixels closer to a palette colour than to grey,
    connected along edges and corners, and a fringe of one pixel for their antialiased outline.
    """
    from scipy import ndimage

    opacity = opacity_of(images)
    # Connects the eight neighbours within a picture and nothing across pictures.
    structure = torch.zeros(3, 3, 3, dtype=torch.bool)
    structure[1] = True
    label, _ = ndimage.label((opacity >= 0.5).numpy(), structure=structure.numpy())
    core = torch.from_numpy(label).float()  # exact up to 2^24 regions
    fringe = F.max_pool2d(core[:, None], 3, stride=1, padding=1)[:, 0] if len(core) else core
    return opacity, torch.where(core > 0, core, fringe).long()


def opacity_of(images: Tensor) -> Tensor:
    """How far each pixel lies from grey to the palette colour that explains it best: [B, Y, X] in [0, 1].

    images: float32 [B, 3, Y, X]. 0 for colours off every line from grey to a palette colour.
    """
    grey = torch.tensor(BACKGROUND)
    towards = torch.tensor(list(COLOURS.values())) - grey
    length = towards.square().sum(dim=1)[:, None, None]
    away = images - grey[:, None, None]
    along = torch.einsum("bcyx,kc->bkyx", away, towards) / length
    on = along.clamp(0, 1)
    residual = (away.square().sum(dim=1, keepdim=True) + length * on * (on - 2 * along)).clamp_min(0).sqrt()
    return (on * torch.sigmoid((OFF_PALETTE - residual) / OFF_PALETTE_WIDTH)).amax(dim=1)


def _colours(images: Tensor, mask: Tensor) -> Tensor:
    """Nearness exp(-d^2 / w^2) [N, 6] of the core of every region to the palette; w = MEMBERSHIP_WIDTH."""
    weight = mask**6  # of antialiased pixels only the most opaque count
    mean = torch.einsum("ncyx,nyx->nc", images, weight) / weight.sum(dim=(1, 2)).clamp_min(1e-9)[:, None]
    squared = (mean[:, None] - torch.tensor(list(COLOURS.values()))).square().sum(dim=2)
    return torch.exp(-squared / MEMBERSHIP_WIDTH**2)


def _shapes(mask: Tensor, area: Tensor, unit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap [N, 4] with every shape's template, half extent [N] and centroid [N, 2] of masks [N, Y, X].

    A template is the drawing with the region's area and centroid; overlap is sum(min) / sum(max). The
    half extent is that of the template which fits best, blended smoothly near a tie.
    """
    count, side = mask.shape[0], mask.shape[-1]
    pixel = torch.arange(side) + 0.5
    total = mask.sum(dim=(1, 2)).clamp_min(1e-9)
    x, y = (mask.sum(dim=1) @ pixel) / total, (mask.sum(dim=2) @ pixel) / total
    ratio = torch.tensor([AREA[shape] for shape in SHAPES])
    half = (area.clamp_min(1e-9)[:, None] / ratio).sqrt()  # [N, 4]
    overlaps = []
    for i, shape in enumerate(SHAPES):
        size = half[:, i] * unit
        distance = signed_distance(torch.full((count,), i), x, y - DROP[shape] * size, size, side)
        template = (0.5 - distance).clamp(0, 1)
        shared = torch.minimum(mask, template).sum(dim=(1, 2))
        overlaps.append(shared / (total + template.sum(dim=(1, 2)) - shared))
    overlap = torch.stack(overlaps, dim=1)
    best = torch.softmax(overlap / 0.02, dim=1)
    return overlap, (best * half).sum(dim=1), torch.stack([x, y], dim=1) / unit


def _shape_degrees(overlap: Tensor) -> Tensor:
    """Degree [N, 4] of every shape: a good overlap that is better than any other shape's."""
    others = torch.stack(
        [overlap[:, [j for j in range(len(SHAPES)) if j != i]].amax(dim=1) for i in range(len(SHAPES))], dim=1
    )
    fits = torch.sigmoid((overlap - OVERLAP) / OVERLAP_WIDTH)
    return fits * torch.sigmoid((overlap - others) / OVERLAP_MARGIN)
