"""Pictures and clips for the page, as data URIs within a budget of bytes.

A picture that is an enlargement by a whole factor (as the sheets of tiny policies are) is stored at its own
size and enlarged by the browser without smoothing. Others are re-encoded as JPEG, smaller until they fit.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLIPS = {".mp4": "video/mp4", ".gif": "image/gif"}
LEAST = 48  # pixels of the longer side that a picture is never reduced below
# What PIL raises for files that are no pictures, cut off, or bombs.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, TypeError)


@dataclass(frozen=True)
class Shown:
    """A picture or clip in the page: data URI, size in CSS pixels, whether the browser enlarges it."""

    uri: str
    width: int
    height: int
    pixels: bool = False
    clip: bool = False


class Budget:
    """Bytes of base64 that a panel may still spend; `left_out` counts what found no room."""

    def __init__(self, size: float) -> None:
        self.left = int(size)
        self.left_out = 0

    def take(self, shown: Shown) -> Shown | None:
        """The same if there is room for it, else None."""
        if len(shown.uri) > self.left:
            self.left_out += 1
            return None
        self.left -= len(shown.uri)
        return shown


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` positions, evenly spread, first and last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(most, count)).round()})


def load(path: Path) -> Image.Image:
    """A picture in RGB. Raises one of UNREADABLE."""
    with Image.open(path) as picture:
        picture.load()
        return picture.convert("RGB")


def still(picture: Image.Image, share: float, side: int = 256) -> Shown:
    """An RGB picture in about `share` bytes of base64, its longer side at most `side` pixels."""
    factor = enlargement(picture)
    if factor > 1:
        native = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.NEAREST)
        data = _encoded(native, "PNG")
        if _base64_size(data) <= share:
            times = max(1, min(factor, side // max(native.size)))  # whole, or pixels would be uneven
            return _shown(data, "png", (native.width * times, native.height * times), True)
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
    data, kind = _encoded(small, "PNG") if max(size) <= 160 else b"", "png"
    jpeg = _fitting(small, share)
    if not data or _base64_size(data) > share or len(data) > 1.5 * len(jpeg):
        data, kind = jpeg, "jpeg"
    return _shown(data, kind, size, False)


def file(path: Path, share: float, side: int = 256) -> Shown | None:
    """A picture or clip (.mp4, .gif) of the run folder; a clip larger than `share` gives None.

    Raises one of UNREADABLE.
    """
    if path.suffix not in CLIPS:
        return still(load(path), share, side)
    data = path.read_bytes()
    if _base64_size(data) > share:
        return None
    moving = path.suffix == ".mp4"
    if not (data[4:8] == b"ftyp" if moving else data[:4] == b"GIF8"):
        raise ValueError(f"{path.name} is no {path.suffix} file")
    return Shown(f"data:{CLIPS[path.suffix]};base64,{_base64(data)}", side, side, clip=moving)


def cut(picture: Image.Image, boxes: Sequence[tuple[int, int, int, int]]) -> list[Image.Image]:
    """The pictures of a sheet. Raises ValueError for a box outside of it."""
    for box in boxes:
        left, top, right, bottom = box
        if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
            raise ValueError(f"the box {box} lies outside of a sheet of {picture.size}")
    return [picture.crop(box) for box in boxes]


def enlargement(picture: Image.Image) -> int:
    """The largest whole factor up to 16 by which every pixel of an RGB picture is repeated."""
    pixels = np.asarray(picture)
    common = math.gcd(*picture.size)
    for factor in (f for f in range(16, 1, -1) if common % f == 0):
        small = pixels[::factor, ::factor]
        if (small.repeat(factor, 0).repeat(factor, 1) == pixels).all():
            return factor
    return 1


def _shown(data: bytes, kind: str, size: tuple[int, int], pixels: bool) -> Shown:
    return Shown(f"data:image/{kind};base64,{_base64(data)}", *size, pixels=pixels)


def _encoded(picture: Image.Image, form: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=form, **({"quality": 85, "optimize": True} if form == "JPEG" else {}))
    return out.getvalue()


def _fitting(picture: Image.Image, share: float) -> bytes:
    """JPEG of at most `share` bytes in base64: full size first, then smaller sides."""
    scale = 1.0
    while True:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        data = _encoded(picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS), "JPEG")
        wanted = share / _base64_size(data)
        if wanted >= 1 or max(size) <= LEAST:
            return data
        scale *= min(0.9, math.sqrt(wanted))  # bytes go with the area


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64_size(data: bytes) -> int:
    return (len(data) + 2) // 3 * 4
