"""Pictures in the page: the right pixels in few bytes, cut where the sheet says, within the budget."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlvis.observe import gallery, video
from rlvis.report import pictures
from rlvis.report.pictures import Budget, Shown


def noise(*size: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def decoded(shown: Shown) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(shown.uri.split(",", 1)[1]))).convert("RGB")


@pytest.mark.parametrize("factor", [2, 4, 12])
def test_an_enlarged_picture_is_kept_at_its_own_size(factor: int) -> None:
    small = noise(10, 6)
    shown = pictures.still(small.resize((10 * factor, 6 * factor), Image.Resampling.NEAREST), 10_000, side=60)
    assert shown.pixels
    assert decoded(shown).tobytes() == small.tobytes()
    assert (shown.width, shown.height) == (10 * min(factor, 6), 6 * min(factor, 6))


def test_other_pictures_are_reduced_until_they_fit() -> None:
    shown = pictures.still(noise(600, 300), 20_000)
    assert (shown.width, shown.height, shown.pixels) == (256, 128, False)
    assert len(shown.uri) < 20_100
    assert shown.uri.startswith("data:image/jpeg")


def test_tiles_are_the_pictures_of_a_sheet(tmp_path: Path) -> None:
    images = torch.randint(
        0, 256, (5, 3, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    path = gallery.write_samples(tmp_path, 3, images, [f"a long caption of number {n}" for n in range(5)])
    tiles = pictures.cut(pictures.load(path), gallery.boxes(path))
    assert len(tiles) == 5
    for tile, image in zip(tiles, images, strict=True):
        assert np.array_equal(np.asarray(tile)[::8, ::8], image.permute(1, 2, 0).numpy())


def test_a_box_outside_of_its_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="lies outside"):
        pictures.cut(noise(20, 20), [(0, 0, 21, 10)])


def test_clips_are_embedded_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    path = video.write(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), tmp_path / "a.mp4", 8)
    shown = pictures.file(path, 100_000)
    assert shown is not None
    assert shown.clip
    assert base64.b64decode(shown.uri.split(",")[1]) == path.read_bytes()
    assert pictures.file(path, 100) is None
    path.write_bytes(b"not a clip at all")
    with pytest.raises(ValueError, match=r"is no \.mp4 file"):
        pictures.file(path, 100_000)


def test_a_budget_counts_what_it_refuses() -> None:
    budget = Budget(25)
    taken = [budget.take(Shown("x" * 10, 1, 1)) for _ in range(4)]
    assert [shown is not None for shown in taken] == [True, True, False, False]
    assert (budget.left, budget.left_out) == (5, 2)


def test_positions_are_spread_with_both_ends() -> None:
    assert pictures.spread(100, 5) == [0, 25, 50, 74, 99]
    assert pictures.spread(3, 24) == [0, 1, 2]
