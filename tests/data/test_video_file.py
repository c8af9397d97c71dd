"""Clips written and read again: which frames, at what rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.data import video_file
from rlvis.observe import video

FRAMES = 12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 grey frames at 8 a second, each 20 levels lighter than the one before."""
    clip = (torch.arange(FRAMES) * 20).to(torch.uint8).view(FRAMES, 1, 1, 1).expand(FRAMES, 3, 128, 160)
    return video.write(clip, tmp_path_factory.mktemp("clips") / "grey.mp4", fps=8)


def shown(clip: video_file.Clip) -> list[int]:
    """Which of the frames these are, by their grey."""
    return (clip.frames.float().mean((1, 2, 3)) / 20).round().int().tolist()


def test_what_a_file_holds(path: Path) -> None:
    assert video_file.probe(path) == video_file.Info(FRAMES, 8.0, 128, 160)


@pytest.mark.parametrize(
    ("indices", "fps"), [([0], 8.0), ([3, 4, 5], 8.0), ([0, 4, 8], 2.0), ([11], 8.0), (list(range(12)), 8.0)]
)
def test_frames_by_position(path: Path, indices: list[int], fps: float) -> None:
    clip = video_file.read(path, indices=indices)
    assert (shown(clip), clip.fps) == (indices, fps)
    assert clip.frames.dtype == torch.uint8
    assert clip.frames.shape == (len(indices), 3, 128, 160)


@pytest.mark.parametrize(
    ("fps", "wanted"),
    [
        (8.0, list(range(12))),
        (4.0, [0, 2, 4, 6, 8, 10]),
        (3.0, [0, 2, 5, 8, 10]),  # on the screen at 0, 1/3, 2/3, 1 and 4/3 s
        (16.0, [i // 2 for i in range(23)]),
    ],
)
def test_frames_by_rate(path: Path, fps: float, wanted: list[int]) -> None:
    clip = video_file.read(path, fps=fps)
    assert (shown(clip), clip.fps) == (wanted, fps)


def test_a_gif_is_read_too(tmp_path: Path) -> None:
    """GIF writers join equal neighbours into one longer frame: by rate they come back, by position not."""
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    clip = colours[:, :, None, None].expand(4, 3, 128, 128)
    path = video.write(clip, tmp_path / "c.gif", fps=10)
    assert torch.equal(video_file.read(path, fps=10).frames, clip)
    assert torch.equal(video_file.read(path, indices=[0, 1, 2]).frames, clip[[0, 1, 3]])


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({}, "by indices=.* or by fps="),
        ({"indices": [0], "fps": 8}, "not both"),
        ({"indices": []}, "positions from 0"),
        ({"indices": [-1]}, "positions from 0"),
        ({"indices": [0, 1, 5]}, "not evenly spaced"),
        ({"indices": [2, 1]}, "not evenly spaced"),
        ({"indices": [0, 12]}, "has 12 frames, and frame 12 was wanted"),
        ({"fps": 0}, "above 0"),
    ],
)
def test_what_cannot_be_read(path: Path, how: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        video_file.read(path, **how)


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "c.mp4").write_text("not a video")
    for name in ("c.mp4", "missing.mp4"):
        with pytest.raises(ValueError, match="cannot be read as a video"):
            video_file.read(tmp_path / name, fps=8)
