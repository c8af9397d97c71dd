"""Clips as files that play: MP4 (H.264, for pages and trackers) or GIF (where a page shows pictures only).

Small clips are enlarged by a whole factor without smoothing, as sample sheets are. The frame rate is
explicit.
"""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from rlvis import writing

CRF = "18"  # H.264's constant quality: visually lossless


def playable() -> bool:
    """Whether MP4 can be written: PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def write(frames: Tensor, path: Path, fps: float, *, min_side: int = 128) -> Path:
    """Write one clip as .mp4 or .gif, aside and renamed; returns `path`.

    frames: uint8 [M, 3, Y, X]. fps: frames a second. A clip whose longer side is under `min_side` is
    enlarged; MP4 needs even sides, an odd one loses its last row or column. Raises ValueError on another
    shape, type, rate or ending.
    """
    path = Path(path)
    if str(frames.dtype) != "torch.uint8" or frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise ValueError(f"a clip is uint8 [M, 3, Y, X], got {frames.dtype} {list(frames.shape)}")
    if not fps > 0:
        raise ValueError(f"a clip needs more than 0 frames a second, got {fps}")
    writers = {".mp4": _mp4, ".gif": _gif}
    if path.suffix not in writers:
        raise ValueError(f"{path}: a clip is written as {' or '.join(writers)}, name it so")
    factor = math.ceil(min_side / max(frames.shape[-2:])) if max(frames.shape[-2:]) < min_side else 1
    pixels = frames.detach().cpu().permute(0, 2, 3, 1).numpy().repeat(factor, axis=1).repeat(factor, axis=2)
    with writing.aside(path, sync=False) as part:
        writers[path.suffix](pixels, part, fps)
    return path


def _gif(pixels: np.ndarray, path: Path, fps: float) -> None:
    pictures = [Image.fromarray(frame) for frame in pixels]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=max(20, round(1000 / fps)), loop=0
    )


def _mp4(pixels: np.ndarray, path: Path, fps: float) -> None:
    import av

    pixels = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": CRF}
        for frame in pixels:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
