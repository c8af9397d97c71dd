"""Tiles and slices of the autoencoder, and the seams that tiles leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.models import decoding
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.observe.seams import seam_energy
from rlvis.schema import ModelConfig


def policy(folder: Path, family: str, size: int, **changes: Any) -> Policy:
    frames = 5 if family == "wan" else 1
    config = ModelConfig(
        family=family, path=str(folder), height=size, width=size, frames=frames, max_tokens=8
    )
    return load_policy(replace(config, **changes), "cpu")


def latents(p: Policy) -> Tensor:
    return torch.randn(2, *p.latent_shape, generator=torch.Generator().manual_seed(3))


def test_slices_make_the_same_pictures(sd3_folder: Path) -> None:
    whole, sliced = policy(sd3_folder, "sd3", 32), policy(sd3_folder, "sd3", 32, vae_slicing=True)
    assert sliced.pipe.vae.use_slicing
    assert not whole.pipe.vae.use_slicing
    difference = whole.decode(latents(whole)).int() - sliced.decode(latents(whole)).int()
    assert difference.abs().max() <= 1  # another batch size may round otherwise


def test_tiles_leave_seams_that_are_measured(sd3_folder: Path) -> None:
    """Tiles of 32 pixels at strides of 24; unblended they are rougher at borders than the whole picture."""
    whole, tiled = policy(sd3_folder, "sd3", 64), policy(sd3_folder, "sd3", 64, vae_tiling=True)
    assert decoding.tile_sizes(tiled.pipe.vae) == (32, 32)
    strides = decoding.tile_strides(tiled.pipe.vae)
    assert strides == (24, 24)
    even = torch.full((2, *whole.latent_shape), 0.5)  # what is rough in its picture comes from borders
    plain, seamed = whole.decode(even), tiled.decode(even)
    assert plain.shape == seamed.shape
    assert not torch.equal(plain, seamed)
    tiled.pipe.vae.tile_overlap_factor = 0.0  # nothing is blended: the seams at their worst
    hard = seam_energy(tiled.decode(even), (32, 32))
    assert (hard > 2 * seam_energy(plain, (32, 32))).all()


def test_the_other_kind_of_tiles() -> None:
    """Autoencoders of clips have a stride, and tiles in time."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        vae = AutoencoderKLWan()
    config = ModelConfig(family="wan", path="x", height=480, width=832, frames=81, vae_tiling=True)
    decoding.set_up(vae, config, 1)
    assert vae.use_tiling
    assert (decoding.tile_sizes(vae), decoding.tile_strides(vae)) == ((256, 256), (192, 192))
    shares = SimpleNamespace(
        tile_sample_min_height=240,
        tile_sample_min_width=360,
        tile_overlap_factor_height=1 / 6,
        tile_overlap_factor_width=1 / 5,
    )
    assert decoding.tile_strides(shares) == (200, 288)


@pytest.mark.parametrize(
    ("family", "size", "changes", "match"),
    [
        ("sd3", 32, {"vae_tiling": True}, "does nothing at 32 x 32: a tile of this autoencoder is 32 x 32"),
        ("wan", 1024, {"vae_slicing": True, "frames": 9}, "one sample is decoded at a time"),
    ],
)
def test_options_that_would_do_nothing(
    sd3_folder: Path, wan_folder: Path, family: str, size: int, changes: dict[str, Any], match: str
) -> None:
    folder = {"sd3": sd3_folder, "wan": wan_folder}[family]
    with pytest.raises(ValueError, match=match):
        policy(folder, family, size, **changes)


def test_an_autoencoder_without_tiles() -> None:
    config = ModelConfig(family="x", path="y", height=64, width=64, vae_tiling=True)
    for without in (None, SimpleNamespace()):
        with pytest.raises(ValueError, match=r"has no tiling; type model\.vae_tiling=false"):
            decoding.set_up(without, config, 4)


def test_the_frame_rate_is_the_familys_or_the_users(wan_folder: Path, sd3_folder: Path) -> None:
    assert policy(wan_folder, "wan", 32).frame_rate == 16
    assert policy(wan_folder, "wan", 32, fps=8.0).frame_rate == 8
    with pytest.raises(ValueError, match=r"type model\.fps=16"):
        _ = policy(sd3_folder, "sd3", 32).frame_rate
