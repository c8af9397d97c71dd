"""The aesthetic heads on a tiny CLIP, against transformers' vectors and one affine function of them."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as tv
import torchvision.transforms.functional as pil
from safetensors.torch import save_file
from torch import Tensor

from rlvis.reward import hub, pictures
from rlvis.reward.scorers import aesthetic
from rlvis.reward.scorers.aesthetic import Aesthetic
from tests import tiny_clip

WIDTH = 16
# The published file's names and sizes, where 768 is CLIP L/14's width.
MLP = {"0": (1024, WIDTH), "2": (128, 1024), "4": (64, 128), "6": (16, 64), "7": (1, 16)}


def mlp(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for place, (wide, deep) in MLP.items():
        state[f"layers.{place}.weight"] = torch.randn(wide, deep, generator=generator) / deep**0.5
        state[f"layers.{place}.bias"] = torch.randn(wide, generator=generator)
    return state


def linear(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(1, WIDTH, generator=generator), "bias": torch.tensor([5.0])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tiny_clip.save(tmp_path_factory.mktemp("aesthetic"))
    torch.save(mlp(), place / "sac+logos+ava1-l14-linearMSE.pth")
    torch.save(linear(), place / "sa_0_4_vit_l_14_linear.pth")
    return place


@cache
def scorer(folder: Path, **kwargs: Any) -> Aesthetic:
    return Aesthetic(path=str(folder), device="cpu", **{"head_weights": str(folder), **kwargs})


def values(judge: Aesthetic, images: Tensor) -> Tensor:
    scores = judge(images, [""] * len(images), [{}] * len(images))
    assert scores.valid.all()
    return scores.value


def vectors(folder: Path, images: Tensor) -> Tensor:
    """Unit vectors of the whole CLIPModel, of pictures prepared as OpenAI's transform does."""
    from transformers import CLIPModel

    bicubic = tv.InterpolationMode.BICUBIC
    steps = [tv.Resize(32, bicubic), tv.CenterCrop(32), tv.ToTensor()]
    transform = tv.Compose([*steps, tv.Normalize(pictures.MEAN, pictures.STD)])
    pixels = torch.stack([transform(pil.to_pil_image(image[0])) for image in images])
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).eval()
        return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1).double()


@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize(("size", "near"), [((32, 32), 1e-5), ((40, 57), 5e-3)])
def test_the_score_is_one_affine_function_of_clips_vector(
    folder: Path, head: str, size: tuple[int, int], near: float
) -> None:
    """The layers without anything between them collapse; resized pictures are a level of 255 from PIL's."""
    images = tiny_clip.pictures(4, size)
    state = {k: v.double() for k, v in (mlp() if head == "mlp" else linear()).items()}
    weight, bias = torch.eye(WIDTH).double(), torch.zeros(WIDTH).double()
    for name in [f"layers.{p}." for p in MLP] if head == "mlp" else [""]:
        weight, bias = state[f"{name}weight"] @ weight, state[f"{name}weight"] @ bias + state[f"{name}bias"]
    wanted = (vectors(folder, images) @ weight.T + bias)[:, 0]
    ours = values(scorer(folder, head=head), images)
    torch.testing.assert_close(ours, wanted, atol=near, rtol=0)
    assert float(ours.std()) > 0.1


def test_a_batch_is_as_one_by_one_and_frames_are_averaged(folder: Path) -> None:
    clips = tiny_clip.pictures(3, frames=2)
    whole = values(scorer(folder), clips)
    single = [values(scorer(folder, batch=1), clip[None]) for clip in clips]
    torch.testing.assert_close(torch.cat(single), whole, atol=1e-5, rtol=0)
    frames = [values(scorer(folder), clips[:, i : i + 1]) for i in range(2)]
    torch.testing.assert_close(torch.stack(frames).mean(0), whole, atol=1e-5, rtol=0)


def test_the_head_is_fetched_by_its_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(address: str, digest: str) -> Path:
        asked.append((address, digest))
        return folder / "sac+logos+ava1-l14-linearMSE.pth"

    monkeypatch.setattr(hub, "download", fetch)
    images = tiny_clip.pictures(2)
    torch.testing.assert_close(
        values(scorer.__wrapped__(folder, head_weights=None), images), values(scorer(folder), images)
    )
    assert asked == [aesthetic.HEADS["mlp"]]
    assert all(len(digest) == 64 for _, digest in aesthetic.HEADS.values())


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"has other shapes weight \[1, 768\] for \[1, 16\]"):
        scorer(folder, head="linear", head_weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"it lacks weight, bias; has too much layers\.0\.weight"):
        scorer(folder, head="linear", head_weights=str(folder / "sac+logos+ava1-l14-linearMSE.pth"))
