"""Sheets of samples: a grid of pictures with captions as one PNG, for the eye, the trackers and the report.

Tiny images are enlarged by a whole factor without smoothing, so that a 32 pixel image shows its pixels.
Videos are a strip of frames spread over their length. The captions and the places of the pictures are also
kept as text inside the PNG (`captions` and `boxes` read them).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from rlvis import writing

GAP = 12  # pixels between tiles
INK, SOFT, PAPER = (31, 35, 40), (101, 109, 118), (250, 250, 248)
FONT_SIZE = 14


def sheet(
    images: Tensor,
    captions: Sequence[str],
    path: Path,
    columns: int = 4,
    *,
    title: str = "",
    frames: int = 4,
    min_side: int = 128,
    max_side: int = 512,
) -> Path:
    """Write a contact sheet as PNG, written aside and renamed; returns `path`.

    images: uint8 [n, 3, Y, X], or [n, M, 3, Y, X] of which at most `frames` frames are shown. captions: one a
    sample, wrapped to at most three lines. A picture whose longer side is under `min_side` pixels is
    enlarged, over `max_side` reduced. Raises ValueError on other shapes or types, or when captions and images
    differ in number.
    """
    clips = _as_clips(images, captions)
    if columns < 1 or frames < 1:
        raise ValueError(f"gallery: columns and frames must be at least 1, got {columns} and {frames}")
    tiles = [_tile(clip, frames, min_side, max_side) for clip in clips]
    font = ImageFont.load_default(FONT_SIZE)
    width, height = tiles[0].size
    columns = min(columns, len(tiles))
    texts = [_wrap(caption, font, width, lines=3) for caption in captions]
    line = FONT_SIZE + 4
    room = line * max(len(text) for text in texts)
    head = line + GAP if title else 0
    rows = math.ceil(len(tiles) / columns)
    size = (GAP + columns * (width + GAP), GAP + head + rows * (height + 4 + room + GAP))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP, GAP), title, fill=INK, font=font)
    places = []
    for i, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        x = GAP + (i % columns) * (width + GAP)
        y = GAP + head + (i // columns) * (height + 4 + room + GAP)
        page.paste(tile, (x, y))
        places.append((x, y, x + width, y + height))
        for n, part in enumerate(text):
            draw.text((x, y + height + 4 + n * line), part, fill=SOFT, font=font)
    return _save(page, {"captions": list(captions), "boxes": places}, Path(path))


def write_samples(
    run_dir: Path, step: int, images: Tensor, captions: Sequence[str], columns: int = 4
) -> Path:
    """The sheet of a training step, RUN/samples/step_000010.png (see `sheet`)."""
    path = Path(run_dir) / "samples" / f"step_{step:06d}.png"
    return sheet(images, captions, path, columns, title=f"step {step}")


def captions(path: Path) -> list[str]:
    """The captions kept in a sheet's PNG; empty where there are none."""
    return [str(caption) for caption in _note(path, "captions")]


def boxes(path: Path) -> list[tuple[int, int, int, int]]:
    """Where the pictures of a sheet are, (left, top, right, bottom) in pixels in the order of its captions;
    empty for a sheet that does not say so.
    """
    return [(int(x), int(y), int(right), int(bottom)) for x, y, right, bottom in _note(path, "boxes")]


def _note(path: Path, name: str) -> list[Any]:
    with Image.open(path) as picture:
        note: list[Any] = json.loads(getattr(picture, "text", {}).get(name, "[]"))
    return note


def _as_clips(images: Tensor, captions: Sequence[str]) -> np.ndarray:
    """[n, M, Y, X, 3] uint8."""
    shape = tuple(images.shape)
    if str(images.dtype) != "torch.uint8" or images.ndim not in (4, 5) or shape[-3] != 3 or not shape[0]:
        raise ValueError(
            f"gallery: wanted uint8 images [n, 3, Y, X] or [n, M, 3, Y, X] with n > 0, "
            f"got {images.dtype} {list(shape)}"
        )
    if len(captions) != shape[0]:
        raise ValueError(
            f"gallery: {shape[0]} images but {len(captions)} captions; give one caption a sample"
        )
    clips = images if images.ndim == 5 else images[:, None]
    return clips.detach().cpu().permute(0, 1, 3, 4, 2).contiguous().numpy()


def _tile(clip: np.ndarray, frames: int, min_side: int, max_side: int) -> Image.Image:
    """One sample [M, Y, X, 3] as a picture: its frames side by side, first and last among them."""
    count = min(frames, len(clip))
    chosen = np.linspace(0, len(clip) - 1, count).round().astype(int)
    tall, wide = clip.shape[1:3]
    side = max(tall, wide)
    if side < min_side:
        factor = math.ceil(min_side / side)
        size, how = (wide * factor, tall * factor), Image.Resampling.NEAREST
    elif side > max_side:
        size = (max(1, round(wide * max_side / side)), max(1, round(tall * max_side / side)))
        how = Image.Resampling.LANCZOS
    else:
        size, how = (wide, tall), Image.Resampling.NEAREST
    strip = Image.new("RGB", (count * (size[0] + 2) - 2, size[1]), PAPER)
    for n, frame in enumerate(chosen):
        strip.paste(Image.fromarray(clip[frame]).resize(size, how), (n * (size[0] + 2), 0))
    return strip


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Break at spaces (inside a word only where one word is too long), and end with ... what does not fit
    `lines`.
    """
    wrapped = [""]
    for word in text.split():
        candidate = f"{wrapped[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            wrapped[-1] = candidate
            continue
        if wrapped[-1]:
            wrapped.append("")
        for letter in word:
            if wrapped[-1] and font.getlength(wrapped[-1] + letter) > width:
                wrapped.append("")
            wrapped[-1] += letter
    if len(wrapped) <= lines:
        return wrapped
    last = wrapped[lines - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*wrapped[: lines - 1], last + "..."]


def _save(page: Image.Image, texts: Mapping[str, Any], path: Path) -> Path:
    notes = PngImagePlugin.PngInfo()
    for name, value in texts.items():
        notes.add_itxt(name, json.dumps(value))
    with writing.aside(path, sync=False) as part:
        page.save(part, format="PNG", pnginfo=notes, optimize=True)
    return path
