"""Embedding models of both kinds: two towers as transformers scores them, one that chats as its card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from rlvis.reward.scorers.embedding import Embedding
from tests import tiny
from tests.reward.scorers import tiny_qwen

PROMPTS = ["a cat", "two dogs", "a cat"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    layer = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 514, "max_position_embeddings": tiny.TOKENS, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(
        text_config=layer | text, vision_config=layer | {"image_size": 32, "patch_size": 8}, projection_dim=8
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tiny.clip_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.qwen3_embedding(tmp_path_factory.mktemp("qwen3"))


def opened(folder: Path, **kwargs: Any) -> Embedding:
    return Embedding(str(folder), **{"device": "cpu", "precision": "fp32", **kwargs})


def pictures(count: int, frames: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, frames, 3, 40, 64), generator=generator).to(torch.uint8)


def stock(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_two_towers_score_as_transformers_does(clip: Path) -> None:
    scorer, images = opened(clip, scale=100.0), pictures(3)
    scores = scorer(images, PROMPTS, [{}] * 3)
    assert scores.valid.all()
    model = CLIPModel.from_pretrained(clip).eval()
    shown = [stock(image) for image in images[:, 0]]
    inputs = scorer.processor(text=PROMPTS, images=shown, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()
    torch.testing.assert_close(scores.value, 100 * logits.double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_chat_is_pooled_over_its_tokens(chat: Path, pooling: str) -> None:
    scorer = opened(chat, pooling=pooling, instruction="Look.", query="Read.", batch=2)
    images, processor = pictures(3), scorer.processor

    def embed(system: str, content: dict[str, str], **media: Any) -> Tensor:
        turns = [("system", {"type": "text", "text": system}), ("user", content)]
        messages = [{"role": role, "content": [part]} for role, part in turns]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(text=[text], return_tensors="pt", **media)
        with torch.no_grad():
            states = scorer.model(**inputs).last_hidden_state[0]
        return F.normalize(states[-1] if pooling == "last" else states.mean(0), dim=0)

    vectors = [embed("Look.", {"type": "image"}, images=[stock(image)]) for image in images[:, 0]]
    read = [embed("Read.", {"type": "text", "text": prompt}) for prompt in PROMPTS]
    expected = (torch.stack(vectors) * torch.stack(read)).sum(1).double()
    torch.testing.assert_close(scorer(images, PROMPTS, [{}] * 3).value, expected, atol=1e-4, rtol=0)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("kind", ["clip", "chat"])
def test_a_batch_is_its_samples_one_by_one(kind: str, request: pytest.FixtureRequest) -> None:
    folder, images = request.getfixturevalue(kind), pictures(3, frames=2)
    scorer = opened(folder, batch=4)
    together = scorer(images, PROMPTS, [{}] * 3).value
    single = [
        scorer(images[i : i + 1, m : m + 1], [PROMPTS[i]], [{}]).value for i in range(3) for m in (0, 1)
    ]
    torch.testing.assert_close(together, torch.cat(single).reshape(3, 2).mean(1), atol=1e-5, rtol=0)


def test_clips_go_in_as_videos_with_their_times(chat: Path) -> None:
    clips = pictures(2, frames=4)
    prompts = PROMPTS[:2]
    slow, fast = (opened(chat, clip_fps=fps)(clips, prompts, [{}] * 2).value for fps in (2.0, 16.0))
    assert (slow - fast).abs().min() > 1e-6  # the times stand in the text
    single = opened(chat, clip_fps=2.0)(clips[:1], prompts[:1], [{}]).value
    torch.testing.assert_close(single, slow[:1], atol=1e-5, rtol=0)
    assert (slow - opened(chat)(clips, prompts, [{}] * 2).value).abs().max() > 1e-3


def test_long_prompts_are_cut_by_two_towers_and_said(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(clip).encode_texts(["a cat", "word " * 20])
    assert f"reads {tiny.TOKENS} tokens" in caplog.text


def test_what_does_not_fit_is_named(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CLIPModel sees pictures; type clip_fps=null"):
        opened(clip, clip_fps=8.0)
    text_only = tiny.clip_encoder()
    text_only.save_pretrained(tmp_path)
    tiny.clip_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no processor|without a chat template|is no complete"):
        opened(tmp_path)
