"""ImageReward on a tiny checkpoint with every published name, against timm's vision transformer and a plain
BERT written out on the same weights."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as tv
import torchvision.transforms.functional as pil
from torch import Tensor

from rlvis.reward import pictures, weights
from rlvis.reward.scorers import imagereward
from rlvis.reward.scorers.imagereward import ImageReward
from tests import tiny_clip
from tests.reward.scorers import tiny_imagereward
from tests.reward.scorers.tiny_imagereward import (
    CONFIG,
    DEPTH,
    HEADS,
    LAYERS,
    PATCH,
    SIZE,
    TEXT,
    WIDTH,
    WORDS,
    state_dict,
)

PROMPTS = ["a red circle", "two blue square", "ring", "a red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_imagereward.save(tmp_path_factory.mktemp("imagereward"))


@cache
def scorer(folder: Path, **kwargs: Any) -> ImageReward:
    return ImageReward(**{"path": str(folder), "tokenizer": str(folder), "device": "cpu", **kwargs})


def values(judge: ImageReward, images: Tensor, prompts: list[str]) -> Tensor:
    scores = judge(images, prompts, [{}] * len(prompts))
    assert scores.valid.all()
    return scores.value


def vision(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """timm's vision transformer, whose names are the published ones: all tokens [n, 5, WIDTH]."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": WIDTH // 64,
    }
    model = VisionTransformer(num_classes=0, global_pool="", **sizes).eval()
    prefix = "blip.visual_encoder."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    states: Tensor = model(pixels)
    return states


def text(state: dict[str, Tensor], ids: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
    """A BERT that looks at `patches` after each self-attention: its first token [n, TEXT]."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (TEXT,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    def attend(name: str, x: Tensor, to: Tensor, allowed: Tensor | None) -> Tensor:
        query, key, value = (
            linear(f"{name}.self.{part}", y).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part, y in (("query", x), ("key", to), ("value", to))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        out = linear(f"{name}.output.dense", mixed.transpose(1, 2).flatten(-2))
        return norm(f"{name}.output.LayerNorm", out + x)

    base = "blip.text_encoder"
    words = state[f"{base}.embeddings.word_embeddings.weight"][ids]
    places = state[f"{base}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(f"{base}.embeddings.LayerNorm", words + places)
    for i in range(LAYERS):
        name = f"{base}.encoder.layer.{i}"
        x = attend(f"{name}.attention", x, x, mask.bool()[:, None, None])
        x = attend(f"{name}.crossattention", x, patches, None)
        inner = F.gelu(linear(f"{name}.intermediate.dense", x))
        x = norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", inner) + x)
    return x[:, 0]


def reference(images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The published score of single frames, written out."""
    bicubic = tv.InterpolationMode.BICUBIC
    steps = [tv.Resize(SIZE, bicubic), tv.CenterCrop(SIZE), tv.ToTensor()]
    transform = tv.Compose([*steps, tv.Normalize(pictures.MEAN, pictures.STD)])
    state = state_dict()
    with torch.no_grad():
        patches = vision(state, torch.stack([transform(pil.to_pil_image(image[0])) for image in images]))
        x = text(state, ids, mask, patches)
        for place in "02467":
            x = F.linear(x, state[f"mlp.layers.{place}.weight"], state[f"mlp.layers.{place}.bias"])
    return ((x[:, 0] - 0.16717362830052426) / 1.0333394966054072).double()


@pytest.mark.parametrize(("size", "near"), [((32, 32), 1e-5), ((40, 57), 5e-3)])
def test_the_score_is_that_of_the_parts_written_out(folder: Path, size: tuple[int, int], near: float) -> None:
    """Resized pictures are up to a level of 255 from PIL's, which these rough weights magnify."""
    images, judge = tiny_clip.pictures(4, size), scorer(folder)
    wanted = reference(images, *judge.read(PROMPTS))
    ours = values(judge, images, PROMPTS)
    torch.testing.assert_close(ours, wanted, atol=near, rtol=0)
    assert float(ours.std()) > 0.1


def test_captions_are_read_as_bert_does(folder: Path) -> None:
    ids, mask = scorer(folder).read(["A red  CIRCLE", "thing"])
    start = [WORDS.index(word) for word in ("[CLS]", "a", "red", "circle", "[SEP]")]
    assert ids[0].tolist() == start + [0] * 30
    assert ids[1, :3].tolist() == [2, 1, 3]
    assert mask.sum(1).tolist() == [5, 3]


def test_every_published_name_is_taken_or_known_to_be_unused() -> None:
    """At the published sizes: 24 blocks of 1024 and 12 layers of 768 use the same names."""
    state = state_dict()
    ours = imagereward.rename(state, "here")
    unused = {name for name in state if imagereward.UNUSED.fullmatch(name)}
    projections = {f"blip.{half}_proj.{kind}" for half in ("vision", "text") for kind in ("weight", "bias")}
    assert unused == {*projections, "blip.text_encoder.embeddings.position_ids"}
    assert len(ours) == len(state) - len(unused)
    network = imagereward.network(state, CONFIG, "here")
    assert network.state_dict().keys() == ours.keys()
    assert network.vision.config.layer_norm_eps == 1e-6
    without = {name: value for name, value in state.items() if name not in unused}
    assert imagereward.rename(without, "here").keys() == ours.keys()


def test_a_batch_is_as_one_by_one_each_with_its_caption(folder: Path) -> None:
    clips = tiny_clip.pictures(4, frames=2)
    judge = scorer(folder)
    whole = values(judge, clips, PROMPTS)
    single = [values(judge, clips[i : i + 1], PROMPTS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.cat(single), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(values(scorer(folder, batch=3), clips, PROMPTS), whole, atol=1e-5, rtol=0)
    frames = [values(judge, clips[:, i : i + 1], PROMPTS) for i in range(2)]
    torch.testing.assert_close(torch.stack(frames).mean(0), whole, atol=1e-5, rtol=0)
    other = values(judge, clips[[0, 0]], PROMPTS[:2])
    assert abs(float(other[0] - other[1])) > 1e-3


def test_a_long_caption_is_cut_and_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge, image = scorer.__wrapped__(folder), tiny_clip.pictures(1)
    with caplog.at_level(logging.WARNING, logger="rlvis"):
        values(judge, image, [" ".join(["red"] * 33)])
        assert not caplog.records
        longer = [values(judge, image, [" ".join(["red"] * n)]) for n in (34, 50)]
    assert ["imagereward reads 35 tokens" in r.getMessage() for r in caplog.records] == [True]
    torch.testing.assert_close(*longer)


def test_half_precision_is_near(folder: Path) -> None:
    """bfloat16 keeps 8 bits, through six attentions: off by about a twentieth of what samples differ by."""
    images = tiny_clip.pictures(4)
    exact = values(scorer(folder), images, PROMPTS)
    rough = values(scorer(folder, precision="bf16"), images, PROMPTS)
    assert float((rough - exact).abs().max()) < 0.1 * float(exact.std())


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    state = state_dict()
    file = tmp_path / "ImageReward.pt"
    (tmp_path / "med_config.json").write_text(json.dumps(CONFIG))
    for change, words in (
        ({"blip.visual_encoder.blocks.1.norm1.bias": None}, r"lacks vision\.encoder\.layers\.1\.layer_norm1"),
        ({"blip.itm_head.weight": torch.ones(2)}, r"has blip\.itm_head\.weight, which is no part"),
        ({"mlp.layers.7.bias": torch.ones(2)}, r"has other shapes mlp\.layers\.7\.bias \[2\] for \[1\]"),
        ({"blip.visual_encoder.pos_embed": None}, "holds no vision transformer of BLIP"),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, file)
        with pytest.raises(ValueError, match=words):
            scorer.__wrapped__(folder, path=str(file))
    torch.save(state, file)
    (tmp_path / "med_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"med_config\.json beside .* says nothing of 'vocab_size'"):
        scorer.__wrapped__(folder, path=str(tmp_path))
    assert weights.file(str(folder), imagereward.NAMES) == folder / "ImageReward.pt"
