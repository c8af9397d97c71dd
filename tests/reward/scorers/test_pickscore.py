"""PickScore on a tiny checkpoint with the published names, against transformers' model and processor."""

import logging
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision.transforms.functional as pil
from torch import Tensor

from rlvis.reward import weights
from rlvis.reward.scorers.pickscore import PickScore
from tests import tiny, tiny_clip

PROMPTS = ["a red circle", "two blue squares", "ring", "a red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.save(tmp_path_factory.mktemp("pickscore"))


@cache
def scorer(folder: Path, **kwargs: object) -> PickScore:
    return PickScore(path=str(folder), tokenizer=str(folder), device="cpu", **kwargs)  # type: ignore[arg-type]


def values(judge: PickScore, images: Tensor, prompts: list[str]) -> Tensor:
    scores = judge(images, prompts, [{}] * len(prompts))
    assert scores.valid.all()
    return scores.value


def published(folder: Path, images: Tensor, prompts: list[str]) -> Tensor:
    """logits_per_image of each picture and its caption: the raw score of the model's card."""
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = {"height": tiny_clip.SIZE, "width": tiny_clip.SIZE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": tiny_clip.SIZE}, crop_size=side)
    pixels = processor([pil.to_pil_image(image[0]) for image in images], return_tensors="pt")["pixel_values"]
    texts = tiny.clip_tokenizer()(prompts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).eval()
        return model(pixel_values=pixels, **texts).logits_per_image.diagonal().double()


def test_the_file_has_the_published_names(folder: Path) -> None:
    names = weights.state_dict(folder / "model.safetensors").keys()
    layers = {f"{half}_model.encoder.layers.1.self_attn.q_proj.weight" for half in ("text", "vision")}
    others = {"text_model.embeddings.token_embedding.weight", "vision_model.pre_layrnorm.weight"}
    assert names >= {"logit_scale", "visual_projection.weight", "text_projection.weight", *layers, *others}


@pytest.mark.parametrize("size", [(32, 32), (40, 57)])
def test_raw_is_the_models_own_logit(folder: Path, size: tuple[int, int]) -> None:
    """Where pictures are resized, one level of 255 moves the cosine of these rough weights by up to 1e-3."""
    images = tiny_clip.pictures(4, size)
    wanted = published(folder, images, PROMPTS)
    ours = values(scorer(folder, variant="raw"), images, PROMPTS)
    scale = float(scorer(folder, variant="raw").logit_scale)
    torch.testing.assert_close(ours, wanted, atol=scale * (1e-6 if size == (32, 32) else 1e-3), rtol=0)
    assert float(ours.std()) > 20 * scale * 1e-3


def test_variants_are_what_other_codebases_call_pickscore(folder: Path) -> None:
    images = tiny_clip.pictures(4)
    judge = scorer(folder, variant="raw")
    raw = values(judge, images, PROMPTS)
    for variant, wanted in {
        "flow_grpo": raw / 26,
        "mixgrpo": (raw - 18) / 8,
        "cosine": raw / judge.logit_scale,
    }.items():
        torch.testing.assert_close(values(scorer(folder, variant=variant), images, PROMPTS), wanted)
    shifted = values(scorer(folder, variant="raw", shift=3.0, scale=2.0), images, PROMPTS)
    torch.testing.assert_close(shifted, (raw - 3) / 2)


def test_each_picture_meets_its_own_caption_whatever_the_batch(folder: Path) -> None:
    images = tiny_clip.pictures(4)
    whole = values(scorer(folder), images, PROMPTS)
    single = [values(scorer(folder), images[i : i + 1], PROMPTS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.cat(single), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(values(scorer(folder, batch=3), images, PROMPTS), whole, atol=1e-6, rtol=1e-5)
    turned = values(scorer(folder), images[[0, 0]], PROMPTS[:2])
    torch.testing.assert_close(turned[0], whole[0], atol=1e-6, rtol=1e-5)
    assert abs(float(turned[1] - turned[0])) > 1e-3  # the second caption, not the first again


def test_frames_are_averaged(folder: Path) -> None:
    clips = tiny_clip.pictures(2, frames=3)
    judge = scorer(folder)
    single = torch.stack([values(judge, clips[:, i : i + 1], PROMPTS[:2]) for i in range(3)])
    torch.testing.assert_close(values(judge, clips, PROMPTS[:2]), single.mean(0), atol=1e-6, rtol=1e-5)


def test_a_caption_that_is_cut_is_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge, image = scorer.__wrapped__(folder), tiny_clip.pictures(1)
    with caplog.at_level(logging.WARNING, logger="rlvis"):
        values(judge, image, ["a circle"])
        assert not caplog.records
        for _ in range(2):
            values(judge, image, ["a small red circle left of a square"])
    assert ["pickscore reads 24 tokens" in r.getMessage() for r in caplog.records] == [True]


def test_half_precision_is_near(folder: Path) -> None:
    """bfloat16 keeps 8 bits: the cosine is right to about 1e-2."""
    images = tiny_clip.pictures(4)
    rough = values(scorer(folder, variant="cosine", precision="bf16"), images, PROMPTS)
    torch.testing.assert_close(
        rough, values(scorer(folder, variant="cosine"), images, PROMPTS), atol=1e-2, rtol=0
    )


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has none of config\.json"):
        PickScore(path=str(tmp_path), device="cpu")
