"""Wan's image-to-video policies, which read the frame, against the stock pipeline on tiny random weights."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.models import wan_i2v
from rlvis.models.policy import Policy
from rlvis.schema import Condition, Dtype, LoraConfig
from tests import kit, sides, tiny, tiny_wan
from tests.family import holds, policy_of
from tests.two_steps import two_steps

GIVEN = {"condition": Condition.first_frame}
SIZE = {"height": 32, "width": 48, "frames": 5}


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan2.1-I2V: an image encoder, and attention to what it sees."""
    return tiny_wan.reading(tmp_path_factory.mktemp("pictured"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("wan", folder, **(SIZE | GIVEN | changes))


def frames(rows: int = 2, size: tuple[int, int] = (32, 48)) -> Tensor:
    draw = torch.Generator().manual_seed(6)
    return torch.randint(0, 256, (rows, 3, *size), generator=draw).to(torch.uint8)


def test_it_does_what_the_stock_pipeline_does(pictured: Path) -> None:
    assert holds(kit.check("wan", pictured, frames=5, **GIVEN))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 9])
def test_without_an_image_encoder(length: int, tmp_path: Path) -> None:
    folder = tiny_wan.reading(tmp_path, encoder=False)
    assert holds(kit.check("wan", folder, frames=length, max_tokens=16, **GIVEN))


def test_the_mask_and_the_latents_stand_beside_the_noise() -> None:
    x, latents = torch.zeros(2, 4, 3, 2, 2), torch.full((2, 4, 3, 2, 2), 5.0)
    inputs = wan_i2v.beside(x, latents, 4)
    assert inputs.shape == (2, 12, 3, 2, 2)
    assert not inputs[:, :4].any()
    assert bool((inputs[:, 4:8, 0] == 1).all())
    assert not inputs[:, 4:8, 1:].any()
    assert bool((inputs[:, 8:] == 5).all())


def test_every_position_moves_and_the_frame_reaches_the_clip(pictured: Path) -> None:
    p = policy(pictured, cfg=2.0)
    assert p.free.all()
    embeds, _ = p.encode(sides.TEXTS[:2], frames())
    assert embeds[wan_i2v.LATENTS].shape == (2, 4, 2, 8, 12)
    assert embeds[wan_i2v.IMAGE].shape == (2, 5, tiny_wan.IMAGE_WIDTH)
    assert {k for k in embeds if k.startswith("negative_")} == {"negative_prompt_embeds"}
    x = sides.noise(p, 2)
    assert torch.equal(p.start(x, embeds), x)
    latents = sides.ode(p, x, embeds)
    for name in (wan_i2v.LATENTS, wan_i2v.IMAGE):
        other = sides.ode(p, x, embeds | {name: embeds[name].flip(0)})
        assert (other - latents).abs().max() > 1e-2, name


def test_the_picture_s_attention_gets_adapters_and_opens_again(pictured: Path, tmp_path: Path) -> None:
    p = policy(pictured)
    trained = [name for name, _ in p.trainable()]
    assert len(trained) == 2 * 10 * 2  # blocks, layers, A and B
    assert sum("attn2.add_k_proj" in name for name in trained) == 4
    sides.train_a_little(p)
    p.export(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "WanImageToVideoPipeline.from_pretrained" in card
    assert 'pipe(YOUR_FRAME, "YOUR PROMPT", height=32' in card


def test_lower_precision_keeps_encoders_of_the_frame_in_float32(pictured: Path) -> None:
    p = policy(pictured, dtype=Dtype.bfloat16, cfg=2.0)
    assert p.pipe.image_encoder.dtype == p.pipe.vae.dtype == torch.float32
    assert p.pipe.text_encoder.dtype == torch.bfloat16
    embeds, _ = p.encode(sides.TEXTS[:2], frames())
    exact = policy(pictured).encode(sides.TEXTS[:2], frames())[0]
    assert all(torch.equal(embeds[name], exact[name]) for name in (wan_i2v.LATENTS, wan_i2v.IMAGE))
    assert torch.isfinite(sides.ode(p, sides.noise(p, 2), embeds)).all()


@pytest.mark.parametrize("lora", [LoraConfig(4, 8), None])
def test_the_reference_and_a_gradient_in_every_parameter(pictured: Path, lora: LoraConfig | None) -> None:
    p = policy(pictured, lora=lora, keep_reference=True, gradient_checkpointing=True)
    embeds, _ = sides.embedded(p)
    before = sides.one_step(p, embeds).detach()
    sides.train_a_little(p, 0.02)
    out = sides.one_step(p, embeds)
    with p.reference():
        assert torch.equal(sides.one_step(p, embeds), before)
    torch.autograd.backward(out.square().mean())
    assert [name for name, w in p.trainable() if w.grad is None or not w.grad.any()] == []
    assert (out - before).abs().max() > 1e-3


def test_two_steps_through_the_command_line(pictured: Path, tmp_path: Path) -> None:
    words = ["model=wan_i2v", f"model.path={pictured}", "model.height=32", "model.width=32", "model.frames=5"]
    words += ["data=shapes_i2v", "data.path=null", "model.gradient_checkpointing=false"]
    # One branch a forward: with two, the CPU's last bits depend on a row's place among the six.
    words += ["model.cfg_grad=conditional"]
    advantages = two_steps([*words, "model.lora.rank=4", "model.lora.alpha=8"], tmp_path / "run")
    assert advantages.map is not None
    assert advantages.map.shape[-3:] == (2, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": Condition.none}, "makes clips from a first frame; type model.condition=first_frame"),
        ({"max_tokens": 16}, r"max_tokens=16.*by 512 tokens of text; type model.max_tokens=null"),
        ({"frames": 6}, r"frames=6.*the nearest is 5 or 9"),
        ({"width": 40}, r"width=40.*multiples of 16 pixels.*the nearest is 32 or 48"),
        ({"lora": LoraConfig(4, 4, ["attn9.to_q"])}, r"\['attn9.to_q'\].*attn2.add_k_proj"),
    ],
)
def test_errors_say_what_to_do(pictured: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(pictured, **changes)


def test_frames_that_are_missing_or_of_another_size(pictured: Path) -> None:
    p = policy(pictured)
    with pytest.raises(ValueError, match="these prompts bring none; type data=shapes_i2v"):
        p.encode(sides.TEXTS)
    with pytest.raises(ValueError, match="resize the frames"):
        p.encode(sides.TEXTS[:2], frames(size=(16, 48)))
    long = "a red circle " * 200
    assert p.encode([long, "a ring"], frames())[1] == 1


def test_checkpoints_that_cannot_read_a_frame(tmp_path: Path) -> None:
    given = partial(policy, max_tokens=16)
    text = tiny.wan(tmp_path / "text")
    with pytest.raises(ValueError, match=r"makes clips from text alone; type model.condition=none"):
        given(text)
    index = json.loads((text / "model_index.json").read_text(encoding="utf-8"))
    index["_class_name"] = "WanImageToVideoPipeline"
    (text / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=r"takes 4 channels, and 12 were expected.*a mask and the latents"):
        given(text)
    blind = tiny_wan.reading(tmp_path / "blind", image_encoder=None, image_processor=None)
    with pytest.raises(ValueError, match="there is no image_encoder"):
        given(blind)
