"""Pictures for CLIP-like judges against PIL's path, and the mean over frames, each with its owner."""

import pytest
import torch
import torchvision.transforms as tv
import torchvision.transforms.functional as pil
from torch import Tensor

from rlvis.reward import pictures

SIZES = [(40, 40), (48, 90), (61, 37), (20, 31), (32, 32), (33, 32)]  # with odd margins


def noise(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randint(
        256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def levels(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs) * torch.tensor(pictures.STD)[:, None, None] * 255).abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_clip_input_is_torchvisions_transform_on_pil(size: tuple[int, int]) -> None:
    """White noise, the worst case: one level of 255 apart."""
    bicubic = tv.InterpolationMode.BICUBIC
    steps = [tv.Resize(32, bicubic), tv.CenterCrop(32), tv.ToTensor()]
    theirs = tv.Compose([*steps, tv.Normalize(pictures.MEAN, pictures.STD)])
    images = noise(size)
    wanted = torch.stack([theirs(pil.to_pil_image(image)) for image in images])
    assert levels(pictures.clip_input(images, 32, "torchvision"), wanted) < 1.01


@pytest.mark.parametrize("size", SIZES)
def test_clip_input_is_transformers_processor_on_pil(size: tuple[int, int]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    images = noise(size)
    stacked = [pil.to_pil_image(image) for image in images]
    wanted = processor(stacked, return_tensors="pt")["pixel_values"]
    assert levels(pictures.clip_input(images, 32, "transformers"), wanted) < 1.01


def test_the_two_crops_differ_by_a_pixel_where_margins_are_odd() -> None:
    images = noise((35, 32))
    ours, theirs = (pictures.clip_input(images, 32, crop) for crop in ("torchvision", "transformers"))
    torch.testing.assert_close(ours[..., :-1, :], theirs[..., 1:, :])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours, theirs)


def test_judge_gives_each_frame_with_its_owner_and_averages() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(3, 2, 1, 1, 1).expand(3, 2, 3, 4, 4)
    calls = []

    def score(frames: Tensor, rows: list[int]) -> Tensor:
        calls.append((frames[:, 0, 0, 0].tolist(), rows))
        return frames[:, 0, 0, 0].float()

    scores = pictures.judge(images, 4, score)
    assert calls == [([0, 1, 2, 3], [0, 0, 1, 1]), ([4, 5], [2, 2])]
    assert scores.value.tolist() == [0.5, 2.5, 4.5]
    assert scores.value.dtype == torch.float64


def test_a_frame_without_a_finite_score_makes_its_sample_invalid() -> None:
    images = torch.zeros(2, 2, 3, 4, 4, dtype=torch.uint8)
    scores = pictures.judge(images, 8, lambda frames, rows: torch.tensor([1.0, float("nan"), 2.0, 2.0]))
    assert scores.valid.tolist() == [False, True]
