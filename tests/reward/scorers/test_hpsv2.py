"""HPSv2 on a tiny checkpoint laid out as the published ones, against open_clip's model and the transform."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torchvision.transforms as tv
import torchvision.transforms.functional as pil
from torch import Tensor

from rlvis.reward import pictures
from rlvis.reward.scorers.hpsv2 import FILES, HPSv2, prepare
from tests import tiny_clip
from tests.reward.scorers import tiny_hps
from tests.reward.scorers.tiny_hps import NAME, network

PROMPTS = ["a red circle", "two blue squares", "ring", "a red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_hps.saved(tmp_path_factory.mktemp("hpsv2")) as place:
        yield place


@cache
def scorer(folder: Path, **kwargs: Any) -> HPSv2:
    return HPSv2(path=str(folder), architecture=NAME, device="cpu", **{"precision": "fp32", **kwargs})


def values(judge: HPSv2, images: Tensor, prompts: list[str]) -> Tensor:
    scores = judge(images, prompts, [{}] * len(prompts))
    assert scores.valid.all()
    return scores.value


def prepared(image: Tensor, size: int = 32) -> Tensor:
    """The published transform of a picture uint8 [3, Y, X] as torchvision's steps."""
    pixels = tv.ToTensor()(pil.to_pil_image(image))
    scale = size / max(pixels.shape[1:])
    high, wide = (round(side * scale) for side in pixels.shape[1:])
    pixels = pil.resize(pixels, [high, wide], tv.InterpolationMode.BICUBIC)
    below, right = size - high, size - wide
    pixels = pil.pad(pixels, [right // 2, below // 2, right - right // 2, below - below // 2])
    return tv.Normalize(pictures.MEAN, pictures.STD)(pixels)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_the_score_is_open_clips_own_cosine(folder: Path, version: str) -> None:
    images = tiny_clip.pictures(4)
    model = network(list(FILES).index(version))
    with torch.no_grad():
        inputs = torch.stack([prepared(image[0]) for image in images])
        image = model.encode_image(inputs, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(NAME)(PROMPTS), normalize=True)
    wanted = (image @ text.T).diagonal().double()
    ours = values(scorer(folder, version=version), images, PROMPTS)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    assert float(ours.std()) > 1e-2
    torch.testing.assert_close(
        values(scorer(folder, version=version, scale=3.0), images, PROMPTS), 3 * ours, atol=1e-6, rtol=0
    )


def test_a_batch_is_as_one_by_one(folder: Path) -> None:
    images = tiny_clip.pictures(4, frames=2)
    whole = values(scorer(folder), images, PROMPTS)
    single = [values(scorer(folder), images[i : i + 1], PROMPTS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.cat(single), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(values(scorer(folder, batch=3), images, PROMPTS), whole, atol=1e-5, rtol=0)
    frames = [values(scorer(folder), images[:, i : i + 1], PROMPTS) for i in range(2)]
    torch.testing.assert_close(torch.stack(frames).mean(0), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["amp", "bf16"])
def test_half_precision_is_near(folder: Path, precision: str) -> None:
    """The cosine is right to about 1e-2 with 8 bits, better with 11."""
    images = tiny_clip.pictures(4)
    rough = values(scorer(folder, precision=precision), images, PROMPTS)
    exact = values(scorer(folder), images, PROMPTS)
    torch.testing.assert_close(rough, exact, atol=1e-2 if precision == "bf16" else 2e-3, rtol=0)
    assert not torch.equal(rough, exact)


def test_nothing_is_cropped_and_rims_are_black() -> None:
    wide = torch.full((1, 3, 20, 80), 255, dtype=torch.uint8)
    ours = prepare(wide, 40)
    rim = pictures.normalise(torch.zeros(1, 3, 1, 1))
    assert ours.shape == (1, 3, 40, 40)
    torch.testing.assert_close(ours[..., :15, :], rim.expand(1, 3, 15, 40))
    torch.testing.assert_close(ours[..., 25:, :], rim.expand(1, 3, 15, 40))
    assert bool((ours[..., 15:25, :] > rim).all())


def test_the_longest_side_at_size_already_still_gets_its_rims() -> None:
    """The published transform returns such a picture unpadded, which its network refuses."""
    tall = torch.randint(256, (1, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ours = prepare(tall, 40)
    torch.testing.assert_close(ours[..., 5:35], pictures.normalise(tall / 255))


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="open_clip knows no architecture 'ViT-Z'"):
        HPSv2(architecture="ViT-Z")
    with pytest.raises(ValueError, match=r"has no HPS_v2\.1_compressed\.safetensors or HPS_v2\.1_compressed"):
        scorer(tmp_path)
    state = network(0).state_dict()
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "logit_scale"}}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="does not fit CLIP: it lacks logit_scale"):
        HPSv2(path=str(tmp_path / "w.pt"), architecture=NAME, device="cpu")
