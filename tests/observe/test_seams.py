"""Seam energy: 1 without seams, known values with, invariant to what is no seam."""

from __future__ import annotations

import pytest
import torch

from rlvis.observe.seams import LEVEL, seam_energy


def test_a_ramp_and_noise_have_no_seam() -> None:
    ramp = torch.arange(64).mul(2).to(torch.uint8).expand(1, 1, 3, 48, 64)
    assert seam_energy(ramp, (16, 16)).tolist() == [1.0]
    noise = torch.randint(0, 256, (1, 4, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    assert float(seam_energy(noise.to(torch.uint8), (32, 32))) == pytest.approx(1.0, abs=0.01)


def test_a_step_between_tiles_by_hand() -> None:
    """A step of 10 at column 8 of 16: second differences of 10 around pixels 7 and 8, 0 elsewhere."""
    clip = torch.zeros(2, 1, 3, 12, 16, dtype=torch.uint8)
    clip[1, ..., 8:] = 10
    flat, stepped = seam_energy(clip, (100, 8)).tolist()
    assert flat == 1.0
    assert stepped == pytest.approx((10 + LEVEL) / LEVEL)
    assert seam_energy(clip.transpose(3, 4), (8, 100)).tolist() == pytest.approx([1.0, stepped])
    moved = torch.zeros_like(clip)
    moved[..., 5:] = 10  # an edge of the picture, where no tiles meet
    assert (seam_energy(moved, (100, 8)) < 1).all()


def test_brightness_does_not_matter() -> None:
    clip = torch.randint(0, 100, (1, 2, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    torch.testing.assert_close(seam_energy(clip, (8, 8)), seam_energy(clip + 100, (8, 8)))


def test_without_a_border_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="no border"):
        seam_energy(torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8), (32, 64))
    with pytest.raises(ValueError, match="got \\[3, 32, 32\\]"):
        seam_energy(torch.zeros(3, 32, 32, dtype=torch.uint8), (8, 8))
