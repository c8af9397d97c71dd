"""Sample sheets for the page: which steps are shown, as data URIs within a budget of bytes.

First and last are always shown. A sheet above its share of the budget is re-encoded as JPEG, smaller until it
fits.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rlvis.observe import gallery

SHEETS = 24  # sheets in a page
BUDGET = 5_000_000  # bytes of all sheets as base64; a page stays under 8 MB


@dataclass(frozen=True)
class Shown:
    """One sheet in the page: its step, its data URI, its size in pixels, and the captions kept in the PNG."""

    step: int
    uri: str
    width: int
    height: int
    captions: list[str]


def embed(
    samples: Sequence[tuple[int, Path]], *, count: int = SHEETS, budget: int = BUDGET
) -> tuple[list[Shown], list[str]]:
    """At most `count` sheets spread over the run, first and last among them, and sentences about unreadable
    ones.
    """
    picked = sorted({int(i) for i in np.linspace(0, len(samples) - 1, min(count, len(samples))).round()})
    shown: list[Shown] = []
    problems: list[str] = []
    for i in picked:
        step, path = samples[i]
        try:
            shown.append(_embed(step, path, budget // len(picked)))
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:  # PIL raises all of these
            problems.append(
                f"The sample sheet of step {step} ({path.name}) cannot be read: {type(error).__name__}."
            )
    return shown, problems


def _embed(step: int, path: Path, share: int) -> Shown:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        width, height = picture.size
        kind = "png"
        if _base64_size(data) > share:
            data, kind = _smaller(picture.convert("RGB"), share), "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Shown(step, uri, width, height, gallery.captions(path))


def _smaller(picture: Image.Image, share: int) -> bytes:
    """JPEG of at most `share` bytes in base64: full size first, then smaller sides."""
    scale = 1.0
    while True:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        out = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(out, format="JPEG", quality=85)
        wanted = share / _base64_size(out.getvalue())
        if wanted >= 1 or max(size) <= 64:
            return out.getvalue()
        scale *= min(0.9, math.sqrt(wanted))  # bytes go with the area


def _base64_size(data: bytes) -> int:
    return (len(data) + 2) // 3 * 4
