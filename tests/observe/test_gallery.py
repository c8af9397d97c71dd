"""Contact sheets: the right pixels in the right place, and captions that can be read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlvis.observe import gallery


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def plain(*colors: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.tensor(colors, dtype=torch.uint8)[:, :, None, None].expand(-1, 3, *size).contiguous()


def test_tiny_images_are_enlarged_by_a_whole_factor_without_smoothing(tmp_path: Path) -> None:
    image = torch.randint(
        0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    sheet = pixels(gallery.sheet(image, ["noise"], tmp_path / "s.png"))
    g = gallery.GAP
    tile = sheet[g : g + 128, g : g + 128]
    assert (tile == np.kron(image[0].permute(1, 2, 0).numpy(), np.ones((4, 4, 1), np.uint8))).all()


def test_grid_is_row_by_row(tmp_path: Path) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = pixels(
        gallery.sheet(plain(*colors, size=(128, 200)), ["r", "g", "b"], tmp_path / "s.png", columns=2)
    )
    g, line = gallery.GAP, gallery.FONT_SIZE + 4
    rows, columns = g + 64, [g + 100, 2 * g + 300]
    assert [tuple(sheet[rows, x]) for x in columns] == colors[:2]
    assert tuple(sheet[rows + 128 + 4 + line + g, columns[0]]) == colors[2]
    assert tuple(sheet[rows + 128 + 4 + line + g, columns[1]]) == gallery.PAPER


def test_video_shows_first_and_last_frame(tmp_path: Path) -> None:
    video = torch.zeros(1, 9, 3, 128, 128, dtype=torch.uint8)
    video[0, :, 0] = (torch.arange(9) * 20)[:, None, None].to(torch.uint8)
    sheet = pixels(gallery.sheet(video, ["v"], tmp_path / "s.png", frames=3))
    g = gallery.GAP
    assert [int(sheet[g + 5, g + 5 + n * 130, 0]) for n in range(3)] == [0, 80, 160]


def test_large_images_are_reduced(tmp_path: Path) -> None:
    path = gallery.sheet(plain((9, 9, 9), size=(600, 1200)), ["x"], tmp_path / "s.png", max_side=300)
    assert Image.open(path).width == 300 + 2 * gallery.GAP


def test_captions_survive_whole_though_drawn_cut(tmp_path: Path) -> None:
    texts = ["a red circle " * 40, "<b> & \"x\" 'y' \n tab\t", "caf\u00e9 \u7ea2\u5706"]
    path = gallery.write_samples(tmp_path, 10, plain(*[(1, 2, 3)] * 3), texts)
    assert path == tmp_path / "samples" / "step_000010.png"
    assert gallery.captions(path) == texts
    assert Image.open(path).height < 128 + 8 * (gallery.FONT_SIZE + 4)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_wrap_fits_and_loses_nothing_but_the_end() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(gallery.FONT_SIZE)
    lines = gallery._wrap("one two three " + "x" * 60, font, 100, lines=9)
    assert "".join(lines).replace(" ", "") == "onetwothree" + "x" * 60
    assert all(font.getlength(line) <= 100 for line in lines)
    cut = gallery._wrap("word " * 50, font, 100, lines=2)
    assert len(cut) == 2
    assert cut[-1].endswith("...")
    assert font.getlength(cut[-1]) <= 100


def test_wrong_input_says_what_it_got(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"torch.float32 \[1, 3, 8, 8\]"):
        gallery.sheet(torch.zeros(1, 3, 8, 8), ["x"], tmp_path / "s.png")
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        gallery.sheet(plain((0, 0, 0), (1, 1, 1)), ["x"], tmp_path / "s.png")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        gallery.sheet(plain((0, 0, 0)), ["x"], tmp_path / "s.png", columns=0)
    assert list(tmp_path.iterdir()) == []
