"""The checker of clips: every frame judged as a picture, and the path of the prompt's thing through them.

Paths differ by what they cover: its extents along both axes, the distance between the ends and the
length of the way. All of it is smooth in the thing's centroid, which is known to a fraction of a pixel; what
jumps about is no path. Lengths are pixels of a 32 px side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.data.world import checker, regions
from rlvis.data.world.checker import Judgement, match, verdict
from rlvis.data.world.draw import FRAMES, TRAVEL_BOUNDARY
from rlvis.data.world.language import DIRECTIONS, PATHS, parse

ATTRIBUTES: tuple[str, ...] = (*checker.ATTRIBUTES, "path", "moves", "direction", "speed", "first_frame")

# An attribute of the pictures is right in a clip when it is right in this share of the frames (7 of 9).
FRAMES_RIGHT = 0.75
# A thing that covers less rests; the shortest drawn way is 4.5 pixels, noise moves a centroid by 0.3.
REST, REST_WIDTH = 2.2, 0.4
# Ends this close (over the larger extent) come back; a smaller extent this large is round. Drawn: 0 or 1.
RATIO, RATIO_WIDTH = 0.5, 0.08
# Length of the way over the larger extent, for 9 frames; more than 1.5 times that is jumping about.
WAY = {"straight": 1.0, "bouncing": 2.0, "circling": 3.06}
DETOUR, DETOUR_WIDTH = 1.5, 0.1
DIRECTION_COSINE = 2**-0.5  # 45 degrees
SPEED_WIDTH = 0.8
# Mean absolute difference to the condition frame, both averaged over 3 x 3 pixels so that noise hardly
# counts: blur and noise of 0.05 make 0.015, the same thing elsewhere 0.04 (median).
FIRST_FRAME = 0.02


def judge_media(frames: Tensor, prompts: Sequence[str], first: Tensor | None = None) -> Judgement:
    """Judge pictures (M = 1) or clips, uint8 [B, M, 3, S, S], by their prompts.

    first: condition frames, uint8 or float [B, 3, S, S], for clips. Raises ValueError as `judge` and
    `judge_clips` do, and on a single frame with a prompt that moves or with a condition frame.
    """
    if frames.ndim != 5 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 [B, M, 3, S, S], got {frames.dtype} {list(frames.shape)}")
    clips = frames.float() / 255
    if frames.shape[1] > 1:
        return judge_clips(clips, prompts, first)
    moving = [prompt for prompt in prompts if parse(prompt).motion is not None]
    if moving or first is not None:
        what = f"the prompt {moving[0]!r}" if moving else "a condition frame"
        raise ValueError(f"{what} asks for a clip, got a single frame for each sample")
    return checker.judge(clips[:, 0], prompts)


def judge_clips(clips: Tensor, prompts: Sequence[str], first: Tensor | None = None) -> Judgement:
    """Judge every clip by its prompt.

    Args: clips, float [B, M, 3, S, S] in [0, 1], M > 1; prompts, B texts, a still one says nothing about
    motion; first, condition frames, uint8 or float in [0, 1] [B, 3, S, S], which ask for first_frame.
    Returns the Judgement over ATTRIBUTES: those of pictures are means over the frames. Raises ValueError on
    clips of another shape and on a prompt of another world.
    """
    if clips.ndim != 5 or clips.shape[1] < 2:
        raise ValueError(
            f"clips must be float [B, M, 3, S, S] with two frames or more, got {list(clips.shape)}"
        )
    count, frames = clips.shape[:2]
    checker.check_images(clips.flatten(0, 1), len(prompts) * frames)
    shown = regions.find(clips.flatten(0, 1))
    degrees, rights, chosen = match(shown, [prompt for prompt in prompts for _ in range(frames)])
    degree = {name: value.reshape(count, frames).mean(dim=1) for name, value in degrees.items()}
    right = {}
    for name, value in rights.items():
        share = value.reshape(count, frames).mean(dim=1)
        right[name] = torch.where(share.isnan(), share, (share >= FRAMES_RIGHT).double())

    rows = torch.arange(count * frames)
    centre = shown.centre[rows, chosen[:, 0]].double().reshape(count, frames, 2)
    presence = shown.presence[rows, chosen[:, 0]].double().reshape(count, frames)
    for name, (soft, sharp) in _motion(_filled(centre, presence >= 0.5), prompts).items():
        # A thing that is not there in every frame has no path that one could trust.
        degree[name] = soft * presence.mean(dim=1)
        there = (presence >= 0.5).double().mean(dim=1) >= FRAMES_RIGHT
        right[name] = torch.where(soft.isnan(), math.nan, (sharp & there).double())
    degree["first_frame"], right["first_frame"] = _first_frame(clips[:, 0], first)
    return verdict(degree, right)


def _filled(centre: Tensor, there: Tensor) -> Tensor:
    """Centres [B, M, 2] with frames that show nothing filled from the nearest earlier, else later, frame."""
    at = torch.arange(there.shape[1]).expand_as(there)
    before = torch.where(there, at, -1).cummax(dim=1).values
    after = torch.where(there, at, len(at[0])).flip(1).cummin(dim=1).values.flip(1)
    source = torch.where(before >= 0, before, after).clamp(max=there.shape[1] - 1)
    return centre.gather(1, source[:, :, None].expand(-1, -1, 2))


@lru_cache(maxsize=65536)
def _asked(prompt: str) -> tuple[int, int, float, float, int]:
    """Position in PATHS (-1 open, -2 still), 1 if it must move, direction (NaN open), 1 quickly (-1 open)."""
    motion = parse(prompt).motion
    if motion is None:
        return -2, 0, math.nan, math.nan, -1
    dx, dy = DIRECTIONS[motion.direction] if motion.direction else (math.nan, math.nan)
    speed = -1 if motion.speed is None else int(motion.speed == "quickly")
    path = -1 if motion.path is None else PATHS.index(motion.path)
    return path, int(path == -1), float(dx), float(dy), speed


def _motion(centre: Tensor, prompts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Degree float64 [B] (NaN: not asked) and verdict bool [B] of path, moves, direction and speed."""
    rows = [_asked(prompt) for prompt in prompts]
    asked = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    path, must, wanted, speed = asked[:, 0].long(), asked[:, 1] > 0, asked[:, 2:4], asked[:, 4]

    net = centre[:, -1] - centre[:, 0]
    distance = net.norm(dim=1)
    covered = centre.amax(dim=1) - centre.amin(dim=1)
    extent, across = covered.amax(dim=1), covered.amin(dim=1)
    kinds = _paths(distance, extent, across, centre.diff(dim=1).norm(dim=2).sum(dim=1))  # [B, 4]
    moves = torch.sigmoid((extent - REST) / REST_WIDTH)
    goes = torch.sigmoid((distance - REST) / REST_WIDTH)
    cosine = (net * wanted).sum(dim=1) / distance.clamp_min(1e-9)
    quick = torch.sigmoid((distance - TRAVEL_BOUNDARY) / SPEED_WIDTH)

    def where_asked(condition: Tensor, values: Tensor) -> Tensor:
        return torch.where(condition, values, math.nan)

    best = kinds.amax(dim=1)
    asked_kind = kinds.gather(1, path.clamp_min(0)[:, None])[:, 0]
    return {
        "path": (where_asked(path >= 0, asked_kind), (asked_kind == best) & (asked_kind >= 0.25)),
        "moves": (where_asked(must, moves), extent > REST),
        "direction": (
            where_asked(~wanted[:, 0].isnan(), ((1 + cosine) / 2) ** 4 * goes),
            (cosine > DIRECTION_COSINE) & (distance > REST),
        ),
        "speed": (
            where_asked(speed >= 0, torch.where(speed > 0, quick, 1 - quick) * goes),
            ((distance > TRAVEL_BOUNDARY) == (speed > 0)) & (distance > REST),
        ),
    }


def _paths(distance: Tensor, extent: Tensor, across: Tensor, way: Tensor) -> Tensor:
    """Degree [B, 4] of every path, from the distance of the ends, both extents and the way's length [B]."""
    size = extent.clamp_min(1e-9)
    moves = torch.sigmoid((extent - REST) / REST_WIDTH)
    back = torch.sigmoid((RATIO - distance / size) / RATIO_WIDTH)
    wide = torch.sigmoid((across / size - RATIO) / RATIO_WIDTH)

    def steady(kind: str) -> Tensor:
        return torch.sigmoid((DETOUR - way / (WAY[kind] * size)) / DETOUR_WIDTH)

    degrees = {
        "straight": moves * (1 - back) * (1 - wide) * steady("straight"),
        "circling": moves * back * wide * steady("circling"),
        "bouncing": moves * back * (1 - wide) * steady("bouncing"),
        "resting": 1 - moves,
    }
    return torch.stack([degrees[kind] for kind in PATHS], dim=1)


def _first_frame(shown: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """Degree (1/2 at the bound) and verdict, float64 [B], of frames [B, 3, S, S] as copies of `first`."""
    if first is None:
        open_ = torch.full((len(shown),), math.nan, dtype=torch.float64)
        return open_, open_
    if first.shape != shown.shape:
        raise ValueError(
            f"the condition frames must be {list(shown.shape)}, like the first ones, got {list(first.shape)}"
        )
    wanted = first.float() / 255 if first.dtype == torch.uint8 else first.float()
    away = F.avg_pool2d(shown.detach().float().cpu() - wanted.cpu(), 3, stride=1).abs().double()
    away = away.mean(dim=(1, 2, 3)).nan_to_num(1.0)
    return torch.exp(-math.log(2) * (away / FIRST_FRAME) ** 2), (away < FIRST_FRAME).double()


assert FRAMES == 9  # WAY["circling"] is that of a polygon with 8 sides: 8 * 2 sin(pi / 8) / 2 = 3.06
