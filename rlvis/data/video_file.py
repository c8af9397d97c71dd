"""Clips from files (MP4, GIF, whatever PyAV opens), with frames chosen explicitly: by position, or by rate.

Positions count the frames in the order they are shown. A rate picks, for each moment k / fps, the frame on
the screen at that moment, by the times written in the file, so files of a varying rate are read right too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOON = 1e-6  # seconds; times in files are rounded


@dataclass(frozen=True)
class Clip:
    """Frames uint8 [M, 3, Y, X] as RGB, and how many of them make a second."""

    frames: Tensor
    fps: float


@dataclass(frozen=True)
class Info:
    """What a file holds: frames counted by decoding, average frames a second, pixels."""

    frames: int
    fps: float
    height: int
    width: int


def probe(path: Path) -> Info:
    """Look at a file. Raises ValueError when it cannot be read as a video."""
    times, height, width = [], 0, 0
    for time, frame in _decoded(path):
        times.append(time)
        height, width = frame.height, frame.width
    return Info(len(times), _rate(path), height, width)


def read(path: Path, *, indices: Sequence[int] | None = None, fps: float | None = None) -> Clip:
    """Frames of a file.

    Args:
        path: of the file.
        indices: positions of the frames wanted, in any order; the rate stays the file's when they are
            consecutive, and is what it would be if they are evenly spaced.
        fps: frames a second wanted, in place of indices.

    Raises:
        ValueError: both or neither is given, the file cannot be read or is too short, or positions are
            unevenly spaced, so that no rate is true.
    """
    if (indices is None) == (fps is None):
        raise ValueError(f"{path}: say which frames, by indices=[0,4,8] or by fps=8, and not both")
    if indices is not None:
        return _by_position(Path(path), list(indices))
    assert fps is not None
    if not fps > 0:
        raise ValueError(f"{path}: fps={fps}, wanted frames a second above 0")
    return _by_rate(Path(path), fps)


def _by_position(path: Path, indices: list[int]) -> Clip:
    if not indices or min(indices) < 0:
        raise ValueError(f"{path}: indices={indices}, wanted positions from 0")
    gaps = {b - a for a, b in pairwise(indices)}
    if len(gaps) > 1 or min(gaps, default=1) < 1:
        raise ValueError(f"{path}: indices={indices} are not evenly spaced and ascending, so no rate is true")
    wanted, kept, count = set(indices), {}, 0
    for _, frame in _decoded(path):
        if count in wanted:
            kept[count] = frame.to_ndarray(format="rgb24")
        count += 1
        if len(kept) == len(wanted):
            break
    if len(kept) < len(wanted):
        raise ValueError(f"{path} has {count} frames, and frame {max(indices)} was wanted")
    return Clip(_tensor([kept[i] for i in indices]), _rate(path) / min(gaps, default=1))


def _by_rate(path: Path, fps: float) -> Clip:
    frames: list[np.ndarray] = []
    held: Any = None
    start = 0.0
    for time, frame in _decoded(path):
        if held is None:
            start = time
        while held is not None and len(frames) / fps + SOON < time - start:
            frames.append(held.to_ndarray(format="rgb24"))
        held = frame
    if held is None:
        raise ValueError(f"{path} has no frames")
    if len(frames) / fps <= time - start + SOON:  # the last frame's moment
        frames.append(held.to_ndarray(format="rgb24"))
    return Clip(_tensor(frames), fps)


def _decoded(path: Path) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) in the order of showing."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no pictures, only {len(container.streams)} other streams")
            for number, frame in enumerate(container.decode(video=0)):
                yield (float(number) if frame.time is None else float(frame.time)), frame
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a video: {error}") from error


def _rate(path: Path) -> float:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        if rate is None:
            raise ValueError(f"{path} does not say how many frames make a second; give fps")
        return float(rate)


def _tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
