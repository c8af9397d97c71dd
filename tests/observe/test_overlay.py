"""Panels of sample, map and both; files of a step; films."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from rlvis.observe import gallery, overlay


def test_the_panels_of_a_still() -> None:
    images = torch.full((2, 3, 8, 12), 100, dtype=torch.uint8)
    maps = torch.zeros(2, 1, 4, 6)
    maps[0, 0, 1, 2] = 0.5
    panels = overlay.overlay(images, maps)
    assert panels.shape == (2, 1, 3, 8, 3 * 12 + 2 * overlay.GAP)
    assert torch.equal(panels[:, 0, :, :, :12], images)
    middle = panels[0, 0, :, :, 14:26].int()
    top = torch.tensor([round(255 * c) for c in overlay.COLOURS[-1]])
    assert torch.equal(middle[:, 2, 4], top.int())  # scaled by its own largest value, enlarged cell by cell
    assert torch.equal(middle[:, 3, 5], top.int())
    low = torch.tensor([round(255 * c) for c in overlay.COLOURS[0]]).int()
    assert torch.equal(middle[:, 0, 0], low)
    last = panels[0, 0, :, :, 28:].int()
    assert int(last[:, 2:4, 4:6].sum()) > int(last[:, :2, :2].sum())


def test_a_clip_has_rows_over_time() -> None:
    images = torch.zeros(1, 5, 3, 8, 12, dtype=torch.uint8)
    maps = torch.zeros(1, 2, 4, 6)
    maps[0, 1] = 1.0
    panels = overlay.overlay(images, maps)
    assert panels.shape == (1, 5, 3, 3 * 8 + 4, 12)
    brightness = panels[0, :, :, 10:18].float().mean((1, 2, 3))
    assert float(brightness[-1]) > float(brightness[0])


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"overlay: wanted uint8 images"):
        overlay.overlay(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"maps \[n, F, H, W\]"):
        overlay.overlay(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 1, 2, 2))


def test_files_of_a_step(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 1, 3, 32, 32), dtype=torch.uint8)
    path = overlay.write_maps(tmp_path, 7, images, torch.rand(3, 1, 4, 4), ["a", "b", "c"])
    assert path == tmp_path / "maps" / "step_000007.png"
    assert gallery.captions(path) == ["a", "b", "c"]
    with Image.open(path) as picture:
        assert picture.width > 2 * 288
    assert not path.with_suffix(".mp4").exists()


def test_the_film_of_clips(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    images = torch.zeros(2, 6, 3, 32, 33, dtype=torch.uint8)
    images[:, 3:] = 200
    path = overlay.write_maps(tmp_path, 1, images, torch.rand(2, 3, 4, 4), ["a", "b"], 12).with_suffix(".mp4")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6
    assert frames[0].shape == (100, 66, 3)
    assert abs(float(frames[5][:30, :30].mean()) - 200) < 10  # H.264 loses a little
    assert float(frames[0][:30, :30].mean()) < 10
