"""Pictures and clips of the shapes world: antialiased signed-distance drawings, a whole batch at a time.

A prompt is completed at random to a scene (what it leaves open is drawn, see `scenes`), placed without
overlap in regions apart, and rendered in torch alone, so the truth about every pixel is known and a seed
gives the same picture everywhere. Rows count from the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.data.world.language import (
    BACKGROUND,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    Request,
    parse,
)

SIZE = 32  # pixels on a side of a drawn picture, the unit of all lengths here
FRAMES = 9  # of a clip: 4 k + 1, which video autoencoders want
MOST_THINGS = 3
MARGIN = 1.0  # between a thing and the border of its region

# Half extents in pixels: free, small and large when alone; in company there is room for one size only.
ALONE = {None: (5.0, 11.0), "small": (4.5, 5.7), "large": (9.0, 12.0)}
COMPANY = (4.5, 6.0)
MOVING = (6.0, 7.5)
SIZE_BOUNDARY = 7.3  # half extent that tells small from large
# Pixels that a thing moves over a whole clip.
TRAVEL = {None: (6.0, 14.0), "slowly": (4.0, 6.0), "quickly": (12.0, 14.5)}
TRAVEL_BOUNDARY = 9.0
ORBIT = (4.5, 6.5)  # radius of a circling thing
BOUNCE = (8.0, 14.0)  # how far a bouncing thing goes before it comes back

NUMBERS = 8 + 6 * MOST_THINGS  # uniform numbers that one scene uses up


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """B completed scenes of up to three things, and where they stand in every frame.

    colour, shape: int64 [B, 3] (positions in COLOURS and SHAPES). present: bool [B, 3]. half: float32
    [B, 3], half extents. centre: float32 [B, M, 3, 2], x and y in each of M frames. Lengths in pixels of a
    32 px side.
    """

    colour: Tensor
    shape: Tensor
    present: Tensor
    half: Tensor
    centre: Tensor


def scenes(prompts: Sequence[str], generator: torch.Generator, frames: int = 1) -> Scenes:
    """Complete each prompt to a scene, with everything it leaves open drawn at random.

    Args: prompts, B texts that `parse` reads; generator, a CPU generator, advanced by exactly NUMBERS uniform
    numbers a prompt (row b uses the b-th block of them); frames, 1 for pictures. A still prompt in a clip
    rests. Raises ValueError on a prompt of another world, or one that moves when frames is 1.
    """
    requests = [parse(prompt) for prompt in prompts]
    uniform = torch.rand(len(prompts), NUMBERS, generator=generator)
    rows = [_complete(r, u, frames, p) for r, u, p in zip(requests, uniform.tolist(), prompts, strict=True)]
    look = torch.tensor([row[0] for row in rows], dtype=torch.long).reshape(-1, MOST_THINGS, 3)
    place = torch.tensor([row[1] for row in rows]).reshape(-1, MOST_THINGS, 3)
    path = torch.tensor([row[2] for row in rows]).reshape(-1, frames, 1, 2)
    centre = place[:, None, :, 1:] + path
    return Scenes(look[..., 0], look[..., 1], look[..., 2].bool(), place[..., 0], centre)


def _complete(
    request: Request, uniform: list[float], frames: int, prompt: str
) -> tuple[list[list[int]], list[list[float]], list[list[float]]]:
    """(colour, shape, present), (half, x, y) of three things, and the path [M, 2] of the first."""
    if request.motion is not None and frames == 1:
        raise ValueError(f"{prompt!r} moves, which one frame cannot show: draw it with frames={FRAMES}")
    shared, each = uniform[:8], [uniform[8 + 6 * i : 14 + 6 * i] for i in range(MOST_THINGS)]
    path = [[0.0, 0.0]] * frames if request.motion is None else _path(request, shared, frames)
    alone = len(request.things) == 1
    regions = _regions(request, shared)
    look, place = [], []
    for i in range(MOST_THINGS):
        if i >= len(request.things):
            look.append([0, 0, 0])
            place.append([1.0, 0.0, 0.0])
            continue
        thing, u = request.things[i], each[i]
        colour = _pick(tuple(COLOURS), thing.colour, u[0])
        shape = _pick(SHAPES, thing.shape, u[1])
        look.append([colour, shape, 1])
        low, high = ALONE[thing.size] if alone else COMPANY
        if request.motion is not None:
            low, high = MOVING
        half = low + (high - low) * u[2]
        centre = []
        for axis in range(2):
            # The region shrinks by the margin, the thing itself and what it moves on either side.
            start, end = regions[i][2 * axis : 2 * axis + 2]
            before = -min(p[axis] for p in path)
            after = max(p[axis] for p in path)
            first, last = start + MARGIN + half + before, end - MARGIN - half - after
            centre.append(first + (last - first) * u[3 + axis])
        place.append([half, *centre])
    return look, place, path


def _pick(names: tuple[str, ...], wanted: str | None, uniform: float) -> int:
    return names.index(wanted) if wanted is not None else min(int(uniform * len(names)), len(names) - 1)


def _regions(request: Request, uniform: list[float]) -> list[tuple[float, float, float, float]]:
    """Where each thing may stand, as x0, x1, y0, y1: everywhere, its half of a relation, or a quarter."""
    half, whole = SIZE / 2, float(SIZE)
    if request.relation is not None:
        axis = 0 if request.relation in ("left of", "right of") else 1
        near = (0.0, half, 0.0, whole) if axis == 0 else (0.0, whole, 0.0, half)
        far = (half, whole, 0.0, whole) if axis == 0 else (0.0, whole, half, whole)
        return [near, far] if request.relation in ("left of", "above") else [far, near]
    if len(request.things) == 1:
        return [(0.0, whole, 0.0, whole)]
    quarters = [(x, x + half, y, y + half) for x in (0.0, half) for y in (0.0, half)]
    order = sorted(range(4), key=lambda i: uniform[i])
    return [quarters[i] for i in order[: len(request.things)]]


def _path(request: Request, uniform: list[float], frames: int) -> list[list[float]]:
    """Displacement [M, 2] of the thing from its first place."""
    assert request.motion is not None
    motion = request.motion
    # An open path is a straight one half of the time, and never rests.
    kind = motion.path
    if kind is None:
        kind = "straight" if uniform[0] < 0.5 else "circling" if uniform[0] < 0.75 else "bouncing"
    dx, dy = DIRECTIONS[list(DIRECTIONS)[_pick(tuple(DIRECTIONS), motion.direction, uniform[1])]]
    times = [m / (frames - 1) for m in range(frames)]
    if kind == "resting":
        return [[0.0, 0.0] for _ in times]
    if kind == "circling":
        radius = ORBIT[0] + (ORBIT[1] - ORBIT[0]) * uniform[2]
        turn = torch.tensor([uniform[3] + (t if uniform[4] < 0.5 else -t) for t in times]) * 2 * torch.pi
        points = torch.stack([turn.cos(), turn.sin()], dim=1) * radius
        return [[float(value) for value in point] for point in points - points[0]]
    low, high = BOUNCE if kind == "bouncing" else TRAVEL[motion.speed]
    length = low + (high - low) * uniform[2]
    along = [1 - abs(2 * t - 1) if kind == "bouncing" else t for t in times]
    return [[dx * length * a, dy * length * a] for a in along]


def render(prompts: Sequence[str], generator: torch.Generator, size: int = SIZE) -> Tensor:
    """One picture for each prompt: float32 [B, 3, size, size] in [0, 1]. Arguments and errors as `scenes`."""
    return paint(scenes(prompts, generator), size)[:, 0]


def render_clips(
    prompts: Sequence[str], generator: torch.Generator, frames: int = FRAMES, size: int = SIZE
) -> Tensor:
    """One clip for each prompt: float32 [B, frames, 3, size, size] in [0, 1]."""
    return paint(scenes(prompts, generator, frames), size)


def paint(scene: Scenes, size: int = SIZE) -> Tensor:
    """Scenes as pixels: float32 [B, M, 3, size, size] in [0, 1], things in order over grey."""
    palette = torch.tensor(list(COLOURS.values()))
    grey = torch.tensor(BACKGROUND).reshape(1, 1, 3, 1, 1)
    opacity = coverage_masks(scene, size)
    image = grey.expand(opacity.shape[0], opacity.shape[1], 3, size, size)
    for i in range(MOST_THINGS):
        colour = palette[scene.colour[:, i]].reshape(-1, 1, 3, 1, 1)
        image = image + opacity[:, :, i, None] * (colour - image)
    return image.contiguous()


def coverage_masks(scene: Scenes, size: int = SIZE) -> Tensor:
    """Opacity of every thing: float32 [B, M, 3, size, size], the share of a pixel that the thing covers."""
    unit = size / SIZE
    count, frames = scene.centre.shape[:2]
    flat = scene.centre.permute(0, 2, 1, 3).reshape(-1, 2) * unit
    kinds = scene.shape.repeat_interleave(frames, dim=1).flatten()
    half = (scene.half * unit).repeat_interleave(frames, dim=1).flatten()
    distance = signed_distance(kinds, flat[:, 0], flat[:, 1], half, size)
    # A pixel whose centre lies d pixels outside the outline is covered by about 1/2 - d of its area.
    alpha = (0.5 - distance).clamp(0, 1).reshape(count, MOST_THINGS, frames, size, size)
    return alpha.transpose(1, 2) * scene.present[:, None, :, None, None]


def signed_distance(kinds: Tensor, x: Tensor, y: Tensor, half: Tensor, size: int) -> Tensor:
    """Distance in pixels [B, size, size] of pixel centres to the outline, negative inside.

    kinds, x, y, half: [B], index of the shape, centre and half extent. All shapes fill a box of 2 half x
    2 half; outside a corner the distance is the largest half-plane distance, exact enough for one pixel of
    antialiasing.
    """
    centres = torch.arange(size, dtype=half.dtype) + 0.5
    h = half[:, None, None]
    dx = (centres[None, None, :] - x[:, None, None]).expand(-1, size, -1)
    dy = (centres[None, :, None] - y[:, None, None]).expand(-1, -1, size)
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
    chosen = torch.empty_like(box)
    for i, shape in enumerate(SHAPES):
        chosen[kinds == i] = distances[shape][kinds == i]
    return chosen


assert set(ALONE) - {None} == set(SIZES)
assert set(TRAVEL) - {None} == set(SPEEDS)
