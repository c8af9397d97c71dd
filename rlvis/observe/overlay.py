"""Maps over pictures, for the eye: each sample as it is, its map on the latent grid, and the two blended.

A still gets the three panels side by side; a clip gets three rows over time, and an MP4 beside the PNG. A
map is scaled by its own largest value, so that colours compare positions of one sample and not samples.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.observe import gallery, video

log = logging.getLogger(__name__)

GAP = 2  # pixels between panels
# Dark blue to yellow, of rising lightness, so that the order survives without colour.
COLOURS = ((0.10, 0.06, 0.30), (0.35, 0.12, 0.53), (0.72, 0.22, 0.47), (0.95, 0.49, 0.28), (0.99, 0.91, 0.52))
BLEND = 0.55  # of the map's colour in the third panel
SHOWN = 4  # clips of one film


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Panels of each sample: image, map, blend.

    images: uint8 [n, 3, Y, X] or [n, M, 3, Y, X]. maps: [n, F, H, W] >= 0; latent frames and cells are
    enlarged as they are (nearest) for the second panel and smoothly for the third.
    Returns uint8 [n, M, 3, Y, 3 X + 2 GAP] for stills (M = 1), [n, M, 3, 3 Y + 2 GAP, X] for clips.
    Raises ValueError on other shapes.
    """
    clips = images if images.ndim == 5 else images[:, None]
    if clips.dtype != torch.uint8 or clips.ndim != 5 or maps.ndim != 4 or maps.shape[0] != clips.shape[0]:
        raise ValueError(
            "overlay: wanted uint8 images [n, 3, Y, X] or [n, M, 3, Y, X] and maps [n, F, H, W], got "
            f"{images.dtype} {list(images.shape)} and {list(maps.shape)}"
        )
    size = (clips.shape[1], *clips.shape[-2:])
    scaled = maps.float() / maps.float().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    coarse = F.interpolate(scaled[:, None], size=size, mode="nearest")[:, 0]
    fine = F.interpolate(scaled[:, None], size=size, mode="trilinear", align_corners=False)[:, 0]
    pictures = clips.float() / 255.0
    panels = [pictures, _colour(coarse), (1 - BLEND) * pictures + BLEND * _colour(fine)]
    side = -1 if size[0] == 1 else -2
    shape = list(pictures.shape)
    shape[side] = GAP
    gap = torch.ones(shape)
    joined = torch.cat([panels[0], gap, panels[1], gap, panels[2]], side)
    return (joined * 255.0).round().to(torch.uint8)


def write_maps(
    run_dir: Path,
    step: int,
    images: Tensor,
    maps: Tensor,
    captions: Sequence[str],
    fps: float | None = None,
) -> Path:
    """RUN/maps/step_000010.png of a training step, and .mp4 beside it for clips; returns the PNG.

    fps: frames a second of clips. Raises ValueError for clips without it.
    """
    panels = overlay(images, maps)
    path = Path(run_dir) / "maps" / f"step_{step:06d}.png"
    title = f"step {step}: sample, map, both"
    gallery.sheet(panels, captions, path, columns=2, title=title, min_side=288, max_side=1024)
    if panels.shape[1] > 1:
        if fps is None:
            raise ValueError("clips are written at a frame rate of their own; give fps")
        write_film(panels[:SHOWN], path.with_suffix(".mp4"), fps)
    return path


def write_film(clips: Tensor, path: Path, fps: float) -> Path | None:
    """Clips uint8 [n, M, 3, Y, X] side by side as H.264; None, with a warning, where PyAV is not
    installed.
    """
    if not video.playable():
        log.warning("no %s: PyAV is not installed; type pip install av", path.name)
        return None
    return video.write(torch.cat(list(clips), -1), path, fps, min_side=1)


def _colour(maps: Tensor) -> Tensor:
    """[n, M, Y, X] in [0, 1] -> [n, M, 3, Y, X]."""
    table = torch.tensor(COLOURS)
    at = maps.clamp(0.0, 1.0) * (len(COLOURS) - 1)
    low = at.floor().long().clamp(max=len(COLOURS) - 2)
    share = (at - low)[..., None]
    return ((1 - share) * table[low] + share * table[low + 1]).movedim(-1, 2)
