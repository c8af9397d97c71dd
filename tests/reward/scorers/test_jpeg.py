"""JPEG rewards: the bytes of a file that Pillow itself writes, in kB, with the frames of a video averaged."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rlvis.reward.scorers.jpeg_compressibility import jpeg_compressibility
from rlvis.reward.scorers.jpeg_incompressibility import jpeg_incompressibility


def kilobytes(frame: torch.Tensor, quality: int = 95) -> float:
    file = io.BytesIO()
    Image.frombytes("RGB", frame.shape[:0:-1], frame.permute(1, 2, 0).numpy().tobytes()).save(
        file, "JPEG", quality=quality
    )
    return len(file.getvalue()) / 1000


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_size_of_the_file_each_frame_weighing_the_same() -> None:
    images = noise(2, 3, 3, 16, 24)
    images[1, 2] = 128
    wanted = [sum(kilobytes(frame) for frame in sample) / 3 for sample in images]
    assert jpeg_incompressibility(images, ["", ""], [{}, {}]).tolist() == pytest.approx(wanted, rel=1e-12)


def test_noise_is_larger_than_a_plain_image_and_the_signs_are_opposite() -> None:
    images = torch.stack([noise(1, 3, 32, 32), torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)])
    size = jpeg_incompressibility(images, ["", ""], [{}, {}])
    assert float(size[0]) > 2 * float(size[1])
    assert torch.equal(jpeg_compressibility(images, ["", ""], [{}, {}]), -size / 500)


def test_quality_is_passed_on() -> None:
    images = noise(1, 1, 3, 32, 32)
    sizes = jpeg_incompressibility(images, [""], [{}], quality=30)
    assert float(sizes) == kilobytes(images[0, 0], 30) < kilobytes(images[0, 0])


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 20), width=st.integers(1, 20), frames=st.integers(1, 3))
def test_any_size_and_number_of_frames(height: int, width: int, frames: int) -> None:
    images = noise(1, frames, 3, height, width)
    wanted = sum(kilobytes(frame) for frame in images[0]) / frames
    assert float(jpeg_incompressibility(images, [""], [{}])) == pytest.approx(wanted, rel=1e-12)
