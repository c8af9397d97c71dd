"""Defects of the shapes world: small hard blemishes put into pictures and clips on purpose, and read back.

They are near black or near white, flat or checkered, and cover 1 to 5 % of the picture. Nothing that the
world draws comes near those colours, so `mask` and `severity` need pixels alone. The tint, a weak cast of the
whole picture, is the control that no map can help with: `mask` does not see it, `severity` does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.data.world import checker, regions
from rlvis.data.world.draw import SIZE
from rlvis.data.world.language import BACKGROUND

PICTURE_KINDS: tuple[str, ...] = ("patch", "blotch", "speck", "texture", "tint")
KINDS: tuple[str, ...] = (*PICTURE_KINDS, "flash", "flicker", "static")
ON_THINGS = ("patch", "texture", "flicker")

SIDES = (5, 6)  # pixels of a 32 px side: height and width of a patch, blotch or speck, each drawn apart
WINDOW = 9  # side of the square in which a thing is textured: one pixel in two, where the thing is
BLACK, WHITE = 0.04, 0.96
CELL = 2  # pixels of a checkered blemish; the texture's are 1
FLICKER = 0.9  # opacity of the blink
LATENT_FRAMES = 4  # frames of a clip behind one latent frame; the first frame has one for itself
TINT = 0.16  # length of the cast in RGB: a quarter of the way from grey to a palette colour
CAST_WEIGHT = 1.2  # makes a full tint as severe as a blemish of 3 % of the area
# Pixels this close to black or white are spoiled; every blend of grey with a palette colour is 0.70 away.
NEAR, NEAR_WIDTH = 0.42, 0.03

NUMBERS = 8  # uniform numbers of one sample, and 2 for each of its frames


def add(clips: Tensor, kind: str, generator: torch.Generator, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Spoil a share of the samples with one defect each.

    patch: on a thing, and moving with it; blotch: on the background; speck: anywhere, in a clip anew in every
    frame; texture: every other pixel of a part of one thing; tint: everything; flash: a blotch in the frames
    of one latent frame; flicker: the thing turns dark or light in every other frame; static: a speck that
    stays.
    Args: clips, float [B, M, 3, S, S] in [0, 1], M = 1 for pictures; kind, one of PICTURE_KINDS, or for M > 1
    of KINDS; generator, a CPU generator, advanced by B (NUMBERS + 2 M) uniform numbers; share, probability
    that a sample is spoiled.
    Returns new clips float32 and the mask bool [B, M, S, S] of what was painted (all of it for the tint).
    Raises ValueError on another kind, a share outside [0, 1], and where the defect needs a thing and there is
    none.
    """
    _check(clips, kind, share)
    count, frames, _, side, _ = clips.shape
    clips = clips.detach().to("cpu", torch.float32)
    uniform = torch.rand(count, NUMBERS + 2 * frames, generator=generator)
    spoiled = uniform[:, 0] < share
    paint = _paint(uniform, side)[:, None]  # [B, 1, 1, S, S]
    opacity = 1.0
    if kind == "tint":
        where = torch.ones(count, frames, side, side, dtype=torch.bool)
        cast = torch.stack([uniform[:, 1], uniform[:, 2], uniform[:, 3]], dim=1) - 0.5
        cast = TINT * cast / cast.norm(dim=1, keepdim=True).clamp_min(1e-6)
        paint = (clips + cast[:, None, :, None, None]).clamp(0, 1)
    else:
        things = checker.thing_masks(clips.flatten(0, 1)).reshape(count, frames, side, side)
        bare = [b for b in range(count) if spoiled[b] and not (things[b, 0] >= 0.5).any()]
        if kind in ON_THINGS and bare:
            raise ValueError(
                f"{kind} spoils a thing, and there is none on {len(bare)} of {count} samples (the first is "
                f"number {bare[0]}): draw them with the shapes world, or take kind=speck"
            )
        if kind in ON_THINGS:
            where = _on_things(clips, things, kind, uniform)
        else:
            where = _anywhere(things, kind, uniform)
        opacity = FLICKER if kind == "flicker" else 1.0
        if kind in ("texture", "flicker"):
            paint = _dark_or_light(uniform)[:, None].expand(-1, -1, -1, side, side)
    where = where & spoiled[:, None, None, None]
    return torch.where(where[:, :, None], clips + opacity * (paint - clips), clips), where


def mask(clips: Tensor) -> Tensor:
    """How spoiled every pixel is: float32 [B, M, S, S] in [0, 1], 1 for near black and near white.

    clips: float [B, M, 3, S, S] in [0, 1]. Below 1e-3 on everything that the world draws.
    """
    pixels = clips.detach().to("cpu", torch.float32).nan_to_num(0.0)
    black = (pixels - BLACK).square().sum(dim=2)
    white = (pixels - WHITE).square().sum(dim=2)
    return torch.sigmoid((NEAR - torch.minimum(black, white).sqrt()) / NEAR_WIDTH)


def severity(clips: Tensor) -> Tensor:
    """How spoiled every sample is: float64 [B], smooth, the share of spoiled area plus the cast.

    The share is the mean of `mask` over all frames: 0.02 to 0.035 for a blemish in every frame, below 1e-3
    for clean drawings, 1 for a black screen. The cast is CAST_WEIGHT times the squared distance of the mean
    background to grey, 0.03 for a full tint.
    """
    if clips.ndim != 5 or clips.shape[2] != 3 or not clips.is_floating_point():
        raise ValueError(f"clips must be float [B, M, 3, S, S], got {clips.dtype} {list(clips.shape)}")
    spoiled = mask(clips)
    pixels = clips.detach().to("cpu", torch.float32).nan_to_num(0.0)
    count, frames, _, height, width = pixels.shape
    things = regions.opacity_of(pixels.flatten(0, 1)).reshape(count, frames, height, width)
    # Antialiased outlines of things would look like a cast: only what is nearly grey counts in full.
    weight = ((1 - spoiled) * (1 - things) ** 4).double()[:, :, None]
    away = pixels.double() - torch.tensor(BACKGROUND, dtype=torch.float64)[:, None, None]
    cast = (weight * away).sum(dim=(1, 3, 4)) / weight.sum(dim=(1, 3, 4)).clamp_min(1.0)
    return spoiled.double().mean(dim=(1, 2, 3)) + CAST_WEIGHT * cast.square().sum(dim=1)


def _check(clips: Tensor, kind: str, share: float) -> None:
    if clips.ndim != 5:
        raise ValueError(f"clips must be float [B, M, 3, S, S], M = 1 for pictures, got {list(clips.shape)}")
    checker.check_images(clips.flatten(0, 1), clips.shape[0] * clips.shape[1])
    known = KINDS if clips.shape[1] > 1 else PICTURE_KINDS
    if kind == "jump":
        raise ValueError(
            "a jump in position cannot be painted over a clip: move draw.Scenes.centre in some frames and "
            f"draw.paint it; the defects of pixels are {', '.join(known)}"
        )
    if kind not in known:
        what = "clips" if clips.shape[1] > 1 else "pictures"
        raise ValueError(f"{what} have no defect {kind!r}: choose from {', '.join(known)}")
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: wanted the share of spoiled samples, in [0, 1]")


def _paint(uniform: Tensor, side: int) -> Tensor:
    """Black, white or checkered, a third each: [B, 1, S, S]."""
    at = torch.arange(side) // (CELL * max(side // SIZE, 1))
    checkered = torch.where((at[:, None] + at) % 2 == 0, BLACK, WHITE)
    kind = (uniform[:, 4] * 3).long().clamp(max=2)
    flat = torch.tensor([BLACK, WHITE, 0.0])[kind][:, None, None, None]
    return torch.where((kind == 2)[:, None, None, None], checkered, flat)


def _dark_or_light(uniform: Tensor) -> Tensor:
    return torch.where(uniform[:, 4] < 0.5, BLACK, WHITE)[:, None, None, None]


def _boxes(top: Tensor, left: Tensor, height: Tensor, width: Tensor, side: int) -> Tensor:
    """Bool [B, M, S, S] of boxes whose corners are int64 [B, M] and whose sizes are [B], pushed inside."""
    at = torch.arange(side)
    top = torch.minimum(top.clamp_min(0), side - height[:, None])[..., None]
    left = torch.minimum(left.clamp_min(0), side - width[:, None])[..., None]
    rows = (at >= top) & (at < top + height[:, None, None])
    columns = (at >= left) & (at < left + width[:, None, None])
    return rows[..., :, None] & columns[..., None, :]


def _pick(allowed: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A random true place (row, column), int64 [B], of every map [B, Y, X]; place 0 where there is none."""
    cumulated = allowed.flatten(1).long().cumsum(dim=1)
    wanted = (uniform * cumulated[:, -1]).long().clamp(max=cumulated[:, -1] - 1) + 1
    place = torch.searchsorted(cumulated, wanted[:, None])[:, 0]
    return place // allowed.shape[2], place % allowed.shape[2]


def _sizes(uniform: Tensor, side: int) -> tuple[Tensor, Tensor]:
    low, high = SIDES
    sizes = [((low + uniform[:, k] * (high - low + 1)).floor().clamp(max=high)) for k in (5, 6)]
    return (sizes[0] * side / SIZE).round().long(), (sizes[1] * side / SIZE).round().long()


def _on_things(clips: Tensor, things: Tensor, kind: str, uniform: Tensor) -> Tensor:
    """Where a thing is spoiled, bool [B, M, S, S]: a place drawn in the first frame that moves with it."""
    count, frames, side, _ = things.shape
    solid = things >= 0.5
    if kind == "flicker":
        return solid & (torch.arange(frames) % 2 == 1)[:, None, None]
    row, column = _pick(things[:, 0] > 0.75, uniform[:, 7])
    centre = regions.find(clips.flatten(0, 1)).centre[:, 0].reshape(count, frames, 2) * side / SIZE
    moved = (centre - centre[:, :1]).round().long()
    row, column = row[:, None] + moved[..., 1], column[:, None] + moved[..., 0]
    if kind == "patch":
        height, width = _sizes(uniform, side)
        return _boxes(row - height[:, None] // 2, column - width[:, None] // 2, height, width, side)
    window = torch.full((count,), round(WINDOW * side / SIZE))
    box = _boxes(row - window[:, None] // 2, column - window[:, None] // 2, window, window, side)
    at = torch.arange(side)
    # The pattern moves with the thing as well.
    odd = (at[:, None] + at + (moved.sum(dim=2) % 2)[..., None, None]) % 2 == 0
    return box & solid & odd


def _anywhere(things: Tensor, kind: str, uniform: Tensor) -> Tensor:
    """Where a speck, static, blotch or flash lies, bool [B, M, S, S]."""
    _, frames, side, _ = things.shape
    height, width = _sizes(uniform, side)
    present = torch.ones_like(things, dtype=torch.bool)
    if kind in ("speck", "static"):
        places = uniform[:, NUMBERS:]
        if kind == "static":
            places = places[:, :2].repeat(1, frames)
        top = (places[:, 0::2] * (side - height + 1)[:, None]).long()
        left = (places[:, 1::2] * (side - width + 1)[:, None]).long()
    else:
        if kind == "flash":
            latent = (torch.arange(frames) + LATENT_FRAMES - 1) // LATENT_FRAMES
            chosen = (uniform[:, 7] * (int(latent[-1]) + 1)).long().clamp(max=int(latent[-1]))
            present = (latent == chosen[:, None])[..., None, None].expand_as(present)
        # Boxes that touch no thing in those frames; where there is none, the least covered box.
        most = round(max(SIDES) * side / SIZE)
        covered = F.avg_pool2d((things * present).amax(dim=1)[:, None], most, stride=1)[:, 0]
        least = covered.amin(dim=(1, 2), keepdim=True).clamp_min(1e-3)
        row, column = _pick(covered <= least, uniform[:, NUMBERS])
        top, left = row[:, None].expand(-1, frames), column[:, None].expand(-1, frames)
    return _boxes(top, left, height, width, side) & present
