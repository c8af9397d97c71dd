"""VideoCLIP-XL on tiny weights under the released names: CLIP's towers, frames by stride, OpenCV's pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import QuickGELU, Transformer, VisionTransformer
from torch import Tensor

from rlvis.reward.judging.videoclip_model import VideoClipModel
from rlvis.reward.scorers.videoclip import MEAN, STD, VideoClip, positions
from tests.reward.scorers import tiny_videoclip
from tests.reward.scorers.tiny_videoclip import CONTEXT, LAYERS, OUT, VISION, WIDTH, WORDS

DATA = np.load(Path(__file__).parents[2] / "parity" / "data" / "opencv_resize.npz")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return tiny_videoclip.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_videoclip.save(tmp_path_factory.mktemp("videoclip"))


def opened(folder: Path, **kwargs: Any) -> VideoClip:
    return VideoClip(str(folder), device="cpu", **kwargs)


def clips(count: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, length, 3, 30, 40), generator=generator).to(torch.uint8)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def test_the_released_sizes_are_those_of_the_file() -> None:
    with torch.device("meta"):
        model = VideoClipModel(
            {"words": WORDS, "width": 768, "layers": 12, "context": CONTEXT, "out": 768},
            {"width": 1024, "layers": 24, "patch": 14, "grid": 16, "frames": 8, "out": 768},
        )
    assert sum(p.numel() for p in model.parameters()) == 427_946_498  # 1.71 GB in float32
    assert model.side == 224


def test_texts_are_encoded_as_by_clips_transformer(folder: Path, state: dict[str, Tensor]) -> None:
    tower = Transformer(WIDTH, LAYERS, 1, act_layer=QuickGELU, batch_first=True).eval()
    tower.load_state_dict(part(state, "text_model.transformer."))
    texts = ["a cat", "two dogs " * 30]
    ids = SimpleTokenizer(context_length=CONTEXT)(texts)
    kept = torch.arange(CONTEXT)[:, None] < 20
    plain, stretched = state["text_model.positional_embedding"], state["text_model.positional_embedding_res"]
    x = state["text_model.token_embedding.weight"][ids] + torch.where(kept, plain, stretched)
    with torch.no_grad():
        x = tower(x, attn_mask=torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1))
    x = F.layer_norm(x, (WIDTH,), state["text_model.ln_final.weight"], state["text_model.ln_final.bias"])
    end = x[[0, 1], (ids == 49407).int().argmax(1)] @ state["text_model.text_projection"]
    ours = opened(folder).encode_texts(texts)
    torch.testing.assert_close(ours, F.normalize(end, dim=-1).double(), atol=1e-5, rtol=0)


def test_a_picture_is_encoded_as_by_clips_transformer(folder: Path, state: dict[str, Tensor]) -> None:
    scorer = opened(folder)
    tower = VisionTransformer(
        28, 14, WIDTH, LAYERS, heads=1, mlp_ratio=4, output_dim=OUT, act_layer=QuickGELU
    ).eval()
    named = part(state, VISION)
    time = named.pop("temporal_positional_embedding")[0].mean(0)
    named["positional_embedding"] = named["positional_embedding"] + torch.cat(
        [torch.zeros(1, WIDTH), time.expand(4, -1)]
    )
    named["conv1.weight"] = named["conv1.weight"][:, :, 0]
    tower.load_state_dict(named)
    images = clips(2, 1)
    with torch.no_grad():
        theirs = tower(scorer.prepare(images)[:, 0])
    ours = scorer.encode_clips(images)
    torch.testing.assert_close(ours, F.normalize(theirs, dim=-1).double(), atol=1e-5, rtol=0)


def test_frames_and_their_order_count(folder: Path) -> None:
    scorer, images = opened(folder, scale=1.0), clips(1, 8)
    prompts = ["a cat"]
    forth = scorer(images, prompts, [{}]).value
    still = scorer(images[:, :1].expand(-1, 8, -1, -1, -1), prompts, [{}]).value
    back = scorer(images.flip(1), prompts, [{}]).value
    assert min(abs(forth - back), abs(forth - still)) > 1e-3
    longer = images.repeat_interleave(2, dim=1)
    torch.testing.assert_close(scorer(longer, prompts, [{}]).value, forth, atol=1e-6, rtol=0)


def test_a_batch_is_its_samples_one_by_one(folder: Path) -> None:
    images, prompts = clips(3, 9), ["a cat", "dogs", "a cat"]
    together = opened(folder, batch=2)(images, prompts, [{}] * 3)
    assert together.valid.all()
    single = [opened(folder)(images[i : i + 1], [prompts[i]], [{}]).value for i in range(3)]
    torch.testing.assert_close(together.value, torch.cat(single), atol=1e-4, rtol=0)
    assert together.value.abs().max() > 1  # a cosine times 100


@pytest.mark.parametrize("k", [0, 1])
def test_pixels_are_opencvs(k: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = opened(folder)
    monkeypatch.setattr(scorer.model, "side", 224)
    image = torch.from_numpy(DATA[f"in_{k}"]).permute(2, 0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    ours = (scorer.prepare(image[None, None])[0, 0] * std + mean) * 255
    theirs = torch.from_numpy(DATA[f"out_{k}"]).permute(2, 0, 1).float()
    assert (ours[:, ::7, ::7] - theirs).abs().max() < 1.01


def test_short_clips_are_refused_and_long_prompts_are_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert positions(81, 8) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert positions(15, 8) == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="reads 8 frames, and the samples have 5"):
        opened(folder)(clips(1, 5), ["a cat"], [{}])
    opened(folder).encode_texts(["cat " * 300])
    assert "videoclip reads 248 tokens" in caplog.text


def test_other_weights_are_named(folder: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    torch.save({"visual.proj": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match="is not VideoCLIP-XL: it lacks"):
        opened(other)
    torch.save({k: v for k, v in state.items() if k != "vision_model.temp"}, other)
    with pytest.raises(ValueError, match=r"lacks vision_model\.temp"):
        opened(other)
