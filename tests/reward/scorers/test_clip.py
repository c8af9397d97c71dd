"""CLIPScore with the embedded judge: what it says, open_clip's preparation, frames, errors that help."""

import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torchvision.transforms.functional as pil
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from rlvis.data.world import draw, language
from rlvis.reward.facts import fit
from rlvis.reward.scorers import clip
from rlvis.reward.scorers.clip import Clip

FOLDER = clip.ASSETS / "tiny_clip"
TOP1 = 0.7  # 0.81 on the card; a free size may look small or large, which costs most of the rest


@pytest.fixture(scope="module")
def judge() -> Clip:
    return Clip("asset:tiny_clip", device="cpu")


def drawn(prompts: list[str], seed: int = 0) -> Tensor:
    pixels = draw.render(prompts, torch.Generator().manual_seed(seed)) * 255
    return pixels.round().to(torch.uint8)[:, None]


def cosines(judge: Clip, images: Tensor, prompts: list[str]) -> Tensor:
    return judge(images, prompts, [{}] * len(prompts)).value


def test_the_score_is_open_clips_own_cosine(judge: Clip) -> None:
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    tokens = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    prompts = ["a red circle", "two blue squares", "something", "a red circle"]
    images = drawn(prompts)
    stacked = torch.stack([prepare(pil.to_pil_image(image[0])) for image in images])
    with torch.no_grad():
        vectors = model.eval().encode_image(stacked, normalize=True)
        wanted = (vectors * model.encode_text(tokens(prompts), normalize=True)).sum(1)
    scores = judge(images, prompts, [{}] * 4)
    assert scores.value.dtype == torch.float64
    assert scores.valid.all()
    torch.testing.assert_close(scores.value, wanted.double(), atol=1e-5, rtol=0)
    scaled = Clip("asset:tiny_clip", device="cpu", scale=100.0, batch=3)
    torch.testing.assert_close(cosines(scaled, images, prompts), 100 * scores.value, atol=1e-3, rtol=0)


def test_right_prompts_score_above_wrong_ones(judge: Clip) -> None:
    clear = language.prompts(kinds=("single", "size", "count", "relation"))
    images = drawn(clear)
    matching = cosines(judge, images, clear)
    other = cosines(judge, images, clear[37:] + clear[:37])
    assert float((matching > other).double().mean()) > 0.95
    table = judge.encode_images(images[:, 0]) @ judge.encode_texts(clear).T
    right = table.argmax(1) == torch.arange(len(clear))
    assert float(right.double().mean()) > TOP1


def test_vague_prompts_score_lower(judge: Clip) -> None:
    def mean(kinds: tuple[str, ...]) -> float:
        prompts = language.prompts(kinds=kinds)
        return float(torch.stack([cosines(judge, drawn(prompts, seed), prompts) for seed in range(3)]).mean())

    clear = mean(("single", "size", "count", "relation"))
    assert mean(("underspecified",)) < clear - 0.05
    assert mean(("ambiguous",)) < clear - 0.1


def test_frames_are_averaged_or_chosen(judge: Clip) -> None:
    prompts = ["a red circle", "a blue ring"]
    clips = torch.cat([drawn(prompts, seed) for seed in range(3)], dim=1)
    single = torch.stack([cosines(judge, clips[:, i : i + 1], prompts) for i in range(3)])
    torch.testing.assert_close(cosines(judge, clips, prompts), single.mean(0), atol=1e-6, rtol=0)
    ends = Clip("asset:tiny_clip", device="cpu", frames=[0, -1])
    torch.testing.assert_close(cosines(ends, clips, prompts), single[[0, 2]].mean(0), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"frames=\[0, -1, 3\], but the samples have 3 frames"):
        Clip("asset:tiny_clip", device="cpu", frames=[0, -1, 3])(clips, prompts, [{}, {}])


@pytest.mark.parametrize("mode", ["squash", "shortest"])
@pytest.mark.parametrize(("name", "levels"), [("bicubic", 1.01), ("bilinear", 2.01)])
@pytest.mark.parametrize("size", [(40, 40), (20, 20), (64, 64), (32, 32)])
def test_preparation_is_that_of_pil(mode: str, name: str, levels: float, size: tuple[int, int]) -> None:
    """White noise, the worst case: one level of 255 apart; two where bilinear weights give exact halves."""
    config: dict[str, Any] = {"size": 32, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    config |= {"interpolation": name, "resize_mode": mode}
    stages, mean, std = clip._preparation(config, "a test")
    noise = torch.randint(256, (3, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ours = noise.float()
    for stage in stages:
        ours = stage(ours)
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    theirs = torch.stack([transform(pil.to_pil_image(image)) for image in noise])
    assert ours.shape == theirs.shape == (3, 3, 32, 32)
    assert float((((ours / 255 - mean) / std - theirs) * std * 255).abs().max()) < levels


def test_the_short_side_is_resized_and_the_middle_kept(judge: Clip) -> None:
    config: dict[str, Any] = {"size": 24, "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "shortest"}
    stages, _, _ = clip._preparation({**config, "interpolation": "bicubic"}, "a test")
    wide = torch.randint(256, (1, 3, 48, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    ours = stages[1](stages[0](wide.float()))
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    theirs = (transform(pil.to_pil_image(wide[0])) * 0.5 + 0.5) * 255
    assert float((ours[0] - theirs).abs().max()) < 1.01
    with pytest.raises(ValueError, match="a test wants resize_mode=longest"):
        clip._preparation({**config, "resize_mode": "longest"}, "a test")


def test_a_prompt_that_is_cut_is_logged_once(judge: Clip, caplog: pytest.LogCaptureFixture) -> None:
    fresh = Clip("asset:tiny_clip", device="cpu")
    image, long = drawn(["a red circle"]), "a red circle left of a blue square above a green ring"
    with caplog.at_level(logging.WARNING, logger="rlvis"):
        cosines(fresh, image, ["a small red circle left of a blue square"])  # nine words: it fits
        assert not caplog.records
        whole = cosines(fresh, image, [long])
        cosines(fresh, image, [long])
    assert [
        "reads 12 tokens" in r.getMessage() and "1 of these 1" in r.getMessage() for r in caplog.records
    ] == [True]
    torch.testing.assert_close(whole, cosines(fresh, image, [" ".join(long.split()[:10])]))


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="asset:tiny_clap does not come with rlvis; what does: asset:tiny_clip"
    ):
        Clip("asset:tiny_clap")
    with pytest.raises(ValueError, match="'clop' is no folder"):
        Clip("clop")
    with pytest.raises(
        ValueError, match=r"ViT-B-32 is an architecture without weights; type pretrained=.*openai"
    ):
        Clip("ViT-B-32")
    with pytest.raises(ValueError, match=r"cannot be opened.*a folder must hold open_clip_config.json"):
        Clip(str(tmp_path))
    (tmp_path / clip.CONFIG).write_text((FOLDER / clip.CONFIG).read_text())
    with pytest.raises(ValueError, match="cannot be opened"):  # no weights: never random ones
        Clip(str(tmp_path))
    with pytest.raises(ValueError, match=r"frames=\[\] leaves nothing"):
        fit("clip", {"path": "asset:tiny_clip", "frames": []}, "t")


def test_names_of_models() -> None:
    assert clip.source("laion/CLIP-ViT-H-14") == "hf-hub:laion/CLIP-ViT-H-14"
    assert clip.source("hf-hub:a/b") == "hf-hub:a/b"
    assert clip.source(str(FOLDER)) == f"local-dir:{FOLDER}"
    assert clip.source("ViT-B-32", "openai") == "ViT-B-32"


def test_openais_weights_get_their_own_activation() -> None:
    assert clip.quick_gelu("ViT-L-14", "openai")
    assert clip.quick_gelu("ViT-L-14-quickgelu", "openai")
    assert not clip.quick_gelu("ViT-H-14", "laion2b_s32b_b79k")
    assert not clip.quick_gelu("ViT-L-14", None)
    assert not clip.quick_gelu(f"local-dir:{FOLDER}", None)


def test_the_asset_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3_000_000
