"""The whole map: bounds, determinism, equivariance, failures; and what it does in the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis import schema as S
from rlvis.advantage.maps import backbone, psm

CPU = torch.device("cpu")
TINY = backbone.load(S.MapConfig(backbone="tiny"), torch.device("cpu"))
SOURCE = S.MapConfig(source=S.MapSource.psm, backbone="tiny")


def make(features: psm.Features = TINY, **changes: Any) -> psm.PerceptualMap:
    return psm.PerceptualMap(features, replace(SOURCE, **changes), CPU)


def media(n: int, m: int = 1, y: int = 32, x: int = 32, seed: int = 0) -> Tensor:
    """Smooth random pictures with a bright disc, so that tokens differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n * m, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(y, x), mode="bicubic").clamp(0, 1)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, y), torch.linspace(-1, 1, x), indexing="ij")
    disc = (rows.square() + columns.square() < 0.2).float()
    return ((0.6 * smooth + 0.4 * disc) * 255).to(torch.uint8).view(n, m, 3, y, x)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(16, 40), st.integers(16, 40)),
    latent=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)).filter(lambda s: max(s) > 1),
    fit=st.sampled_from(S.PcaFit),
    sign=st.sampled_from(S.PcaSign),
    how=st.sampled_from(S.Aggregation),
    norm=st.sampled_from(S.MapNorm),
    hidden=st.booleans(),
    kind=st.sampled_from(["noise", "smooth", "black"]),
)
def test_every_map_is_finite_and_inside_its_bounds(
    shape: Any, latent: Any, fit: Any, sign: Any, how: Any, norm: Any, hidden: bool, kind: str
) -> None:
    n, m, y, x = shape
    frames = media(n, m, y, x)
    if kind == "noise":
        frames = torch.randint(
            0, 256, frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
    elif kind == "black":
        frames = torch.zeros_like(frames)
    free = torch.ones(latent)
    if hidden and free.numel() > 1:
        free[0, 0, 0] = 0
    maps = make(pca_fit=fit, pca_sign=sign, aggregation=how, map_norm=norm)(frames, free, (4, *latent))
    assert maps.shape == (n, *latent)
    assert maps.dtype == torch.float32
    assert bool(torch.isfinite(maps).all())
    assert float(maps.min()) >= 0
    inside = maps[:, free > 0]
    if norm is S.MapNorm.mean1:
        torch.testing.assert_close(inside.mean(1), torch.ones(n), rtol=1e-5, atol=0)
    else:
        assert inside.amax(1).tolist() == [1.0] * n
    assert float(maps[:, free == 0].sum()) == 0.0


def test_the_same_frames_give_the_same_bits() -> None:
    frames, free = media(5, 3), torch.ones(2, 4, 4)
    a, b = (make()(frames, free, (4, 2, 4, 4)) for _ in range(2))
    assert torch.equal(a, b)


def test_neighbours_and_batches_do_not_matter() -> None:
    frames, free = media(6), torch.ones(1, 4, 4)
    whole = make()(frames, free, (4, 1, 4, 4))
    for batch in (1, 2, 5):
        torch.testing.assert_close(make(batch=batch)(frames, free, (4, 1, 4, 4)), whole, rtol=0, atol=2e-5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(make()(frames[order], free, (4, 1, 4, 4)), whole[order], rtol=0, atol=2e-5)


@pytest.mark.parametrize("fit", list(S.PcaFit))
def test_permuting_frames_permutes_maps_before_the_resize_in_time(fit: S.PcaFit) -> None:
    frames, order = media(2, 4), torch.tensor([2, 0, 3, 1])
    vipo_map = make(pca_fit=fit)
    straight, _ = vipo_map._per_frame(frames, None, (4, 4))
    permuted, _ = vipo_map._per_frame(frames[:, order], None, (4, 4))
    torch.testing.assert_close(permuted, straight[:, order], rtol=0, atol=2e-5)


def test_the_clip_fit_gives_equal_frames_equal_maps_and_one_frame_that_of_the_frame_fit() -> None:
    frames = media(2, 1).expand(-1, 3, -1, -1, -1)
    maps, _ = make()._per_frame(frames, None, (4, 4))
    torch.testing.assert_close(maps[:, 0], maps[:, 2], rtol=0, atol=2e-5)
    one, free = media(3), torch.ones(1, 5, 7)
    by_frame = make(pca_fit=S.PcaFit.frame)(one, free, (4, 1, 5, 7))
    assert torch.equal(by_frame, make()(one, free, (4, 1, 5, 7)))


def test_a_disc_stands_out_with_the_border_convention() -> None:
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(64), indexing="ij")
    disc = (rows - 16).square() + (columns - 40).square() < 64
    frames = torch.full((1, 1, 3, 32, 64), 30, dtype=torch.uint8)
    frames[0, 0, 0][disc] = 240
    map_ = make()(frames, torch.ones(1, 8, 16), (4, 1, 8, 16))[0, 0]
    inside = torch.zeros(8, 16, dtype=torch.bool)
    inside[3:5, 9:11] = True
    border = torch.ones(8, 16, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert float(map_[inside].mean()) > 0.7
    assert float(map_[inside].mean()) > 2 * float(map_[border].mean())


def test_no_contrast_is_a_map_of_ones() -> None:
    flat = make(lambda frames: (torch.ones(len(frames), 12, 5), (3, 4)))
    assert torch.equal(flat(media(2, 3), torch.ones(2, 4, 4), (4, 2, 4, 4)), torch.ones(2, 2, 4, 4))


def broken(frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The tiny backbone, with NaN for frames that start black."""
    tokens, grid = TINY(frames)
    return torch.where((frames[:, :, 0, 0].sum(1) == 0)[:, None, None], float("nan"), tokens), grid


def test_a_failed_map_is_an_error_or_ones_and_touches_no_neighbour() -> None:
    frames, free = media(4, 2) | 1, torch.ones(1, 4, 4)
    frames[2, 1, :, 0, 0] = 0
    with pytest.raises(
        ValueError, match=r"1 of 4 samples are not finite \(row 2 first\).*on_map_error=uniform"
    ):
        make(broken)(frames, free, (4, 1, 4, 4))
    maps, failed = make(broken, on_map_error=S.OnMapError["uniform"]).allocate(frames, free, (4, 1, 4, 4))
    assert failed.tolist() == [False, False, True, False]
    assert torch.equal(maps[2], torch.ones(1, 4, 4))
    keep = [0, 1, 3]
    torch.testing.assert_close(maps[keep], make()(frames[keep], free, (4, 1, 4, 4)), rtol=0, atol=2e-5)


def test_no_rows() -> None:
    allocated = make().allocate(media(1)[:0], torch.ones(1, 4, 4), (4, 1, 4, 4))
    assert allocated.map.shape == (0, 1, 4, 4)
    assert allocated.failed.shape == (0,)


@pytest.mark.parametrize(
    ("frames", "free", "message"),
    [
        (media(1).float(), torch.ones(1, 4, 4), r"wanted uint8"),
        (media(1)[:, 0], torch.ones(1, 4, 4), r"wanted uint8 \[N, M, 3, Y, X\]"),
        (media(1), torch.ones(1, 4, 5), r"free: wanted \[F, H, W\]"),
        (media(1), torch.zeros(1, 4, 4), r"no position of the latent is free"),
        (
            media(1, y=6),
            torch.ones(1, 4, 4),
            r"a grid of 1 x 8; .*enlarge=6, or model\.height=32 model\.width=32",
        ),
    ],
)
def test_what_cannot_be_is_refused(frames: Tensor, free: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(frames, free, (4, 1, 4, 4))


def test_a_latent_without_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one position and no grid.*advantage\.map\.source=none"):
        make()(media(1), torch.ones(1, 1, 1), (16, 1, 1, 1))
