"""Clips that play: what is written is what a player shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageSequence

from rlvis.observe import video


def clip(frames: int = 5, height: int = 32, width: int = 32) -> torch.Tensor:
    """A white square that moves right over black."""
    square = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    for m in range(frames):
        square[m, :, 8:16, 3 * m : 3 * m + 8] = 255
    return square


def test_an_mp4_keeps_frames_size_rate_and_pixels(tmp_path: Path) -> None:
    import av

    path = video.write(clip(), tmp_path / "a" / "c.mp4", fps=8)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, float(stream.average_rate)) == ("h264", 8.0)
    assert len(frames) == 5
    assert frames[0].shape == (128, 128, 3)
    shown = torch.from_numpy(frames[2]).permute(2, 0, 1)[:, 2::4, 2::4].float()
    assert float((shown - clip()[2].float()).abs().mean()) < 4  # of 255: H.264 is lossy


def test_a_gif_keeps_frames_and_time(tmp_path: Path) -> None:
    with Image.open(video.write(clip(), tmp_path / "c.gif", fps=8)) as picture:
        frames = [f.convert("RGB").copy() for f in ImageSequence.Iterator(picture)]
        assert picture.info["duration"] in (120, 130)
    assert len(frames) == 5
    assert frames[4].getpixel((4 * 12 + 2, 4 * 10)) == (255, 255, 255)
    assert frames[4].getpixel((2, 2)) == (0, 0, 0)


def test_large_and_odd_clips_keep_their_size_but_for_one_row(tmp_path: Path) -> None:
    import av

    path = video.write(clip(2, 151, 130), tmp_path / "c.mp4", fps=2.5)
    with av.open(str(path)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (130, 150)


@pytest.mark.parametrize(
    ("frames", "name", "fps", "match"),
    [
        (clip().float(), "c.mp4", 8, "uint8"),
        (clip()[0], "c.mp4", 8, "M, 3, Y, X"),
        (clip(), "c.webm", 8, r"\.mp4 or \.gif"),
        (clip(), "c.gif", 0, "more than 0"),
    ],
)
def test_what_is_no_clip_is_refused(
    tmp_path: Path, frames: torch.Tensor, name: str, fps: float, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        video.write(frames, tmp_path / name, fps)
