"""Statistics of pictures against pictures whose values are known, and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis.observe import picture_statistics
from rlvis.observe.picture_statistics import diversity, statistics, thumbnails


def solid(*colour: int, size: int = 64, frames: int = 1) -> Tensor:
    return (
        torch.tensor(colour, dtype=torch.uint8).view(1, 1, 3, 1, 1).expand(1, frames, 3, size, size).clone()
    )


def noise(rows: int = 2, frames: int = 1, tall: int = 64, wide: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, frames, 3, tall, wide), generator=generator).to(torch.uint8)


def natural(size: int = 128, seed: int = 0) -> Tensor:
    """Smooth colours with a little noise, so that the spectrum falls as a photograph's does."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, size // 16, size // 16, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    pixels = smooth + 0.02 * torch.randn(smooth.shape, generator=generator)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)[:, None]


def one(media: Tensor) -> dict[str, float]:
    return {name: float(value[0]) for name, value in statistics(media).items()}


def test_a_solid_screen_has_nothing_but_saturation() -> None:
    values = one(solid(255, 0, 0))
    assert values == {"edge_density": 0, "colour_entropy": 0, "saturation": 1, "spectral_peak": 0}
    assert one(solid(90, 90, 90))["saturation"] == 0


def test_two_halves_have_one_bit_and_one_edge() -> None:
    media = solid(0, 0, 0)
    media[..., 32:] = 255
    values = one(media)
    assert values["colour_entropy"] == pytest.approx(1, abs=1e-9)
    assert values["edge_density"] == pytest.approx(2 / 62, abs=1e-6)  # both sides of the border, of 62
    media[..., 32:] = 20  # 0.08 of full scale: no edge
    assert one(media)["edge_density"] == 0


def test_noise_is_the_other_extreme() -> None:
    values = one(noise())
    assert values["edge_density"] > 0.8
    assert values["colour_entropy"] > 8.5
    assert values["spectral_peak"] < 6


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_a_grid_stands_out_of_the_spectrum(stride: int) -> None:
    plain = natural()
    grid = plain.clone()
    grid[..., ::stride] = (grid[..., ::stride].float() * 0.85).to(torch.uint8)
    before, after = (statistics(media)["spectral_peak"].mean() for media in (plain, grid))
    assert before < 5
    assert after > before + 8
    turned = statistics(grid.mT)["spectral_peak"].mean()
    assert float(turned) == pytest.approx(float(after), abs=0.5)  # rows or columns, it is the larger of both


def test_motion_and_flicker() -> None:
    frames = torch.arange(9)
    still, ramp, blink = (solid(100, 100, 100, frames=9) for _ in range(3))
    ramp += (10 * frames).to(torch.uint8).view(1, 9, 1, 1, 1)
    blink += (10 * (frames % 2)).to(torch.uint8).view(1, 9, 1, 1, 1)
    assert (one(still)["motion_energy"], one(still)["flicker"]) == (0, 0)
    assert one(ramp)["motion_energy"] == pytest.approx(10 / 255, abs=1e-6)
    assert one(ramp)["flicker"] == pytest.approx(0, abs=1e-6)  # a steady change of light does not flicker
    assert one(blink)["flicker"] == pytest.approx(10 / 255, abs=1e-6)
    assert "flicker" not in one(solid(1, 2, 3, frames=2))
    assert "motion_energy" not in one(solid(1, 2, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 70), st.integers(1, 70), st.integers(0, 9))
def test_a_sample_depends_on_no_other(rows: int, frames: int, tall: int, wide: int, seed: int) -> None:
    media = noise(rows, frames, tall, wide, seed)
    whole = statistics(media)
    for i in range(rows):
        for name, value in statistics(media[i : i + 1]).items():
            assert math.isfinite(float(value[0]))
            assert float(whole[name][i]) == pytest.approx(float(value[0]), abs=1e-5)
    assert thumbnails(media).shape == (rows, picture_statistics.width(frames))


def test_chunks_and_the_reduced_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    media = noise(5, 1, 48, 40)
    whole = statistics(media)
    monkeypatch.setattr(picture_statistics, "PIXELS", 48 * 40 * 2)
    pieces = statistics(media)
    assert all(torch.allclose(whole[name], pieces[name], atol=1e-6) for name in whole)
    large = natural(512)[:1]
    reduced = torch.nn.functional.interpolate(large[:, 0].float(), (256, 256), mode="area").round()
    small = statistics(reduced.to(torch.uint8)[:, None])
    assert one(large)["saturation"] == pytest.approx(float(small["saturation"][0]), abs=2e-3)


def test_no_rows_have_the_same_names() -> None:
    media = noise(2, 3)
    none = statistics(media[:0])
    assert list(none) == list(statistics(media))
    assert all(value.shape == (0,) for value in none.values())


def test_another_shape_or_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, M, 3, Y, X\].*float32"):
        statistics(torch.zeros(2, 1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\[2, 3, 8, 8\]"):
        statistics(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_diversity_by_hand() -> None:
    thumbs = torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.0, 1.0], [1.0, 1.0], [0.3, 0.3]])
    # groups: {0, 1} differ by 0.25 on average, {2, 3} are duplicates, {4} is alone
    assert diversity(thumbs, torch.tensor([0, 0, 1, 1, 2])) == pytest.approx((0.25 + 0) / 2)
    assert diversity(thumbs, torch.arange(5)) is None


def test_duplicates_in_a_group_are_0() -> None:
    media = noise(1).expand(4, -1, -1, -1, -1)
    assert diversity(thumbnails(media), torch.zeros(4)) == 0
    mixed = torch.cat([media[:2], 255 - media[:2]])
    assert (diversity(thumbnails(mixed), torch.zeros(4)) or 0) > 0
