"""FLUX.1 as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.models.families.flux import Flux, positions
from rlvis.models.policy import Policy
from rlvis.schema import Dtype, LoraConfig
from tests import kit, sides, tiny_flux
from tests.family import holds, policy_of


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1-dev: a guidance scale, noise levels by the resolution."""
    return tiny_flux.flux(tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1-schnell: neither."""
    return tiny_flux.flux(tmp_path_factory.mktemp("schnell"), dev=False, seed=1)


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("flux", folder, **({"max_tokens": 16} | changes))


def test_it_does_what_the_stock_pipeline_does(dev: Path) -> None:
    assert holds(kit.check("flux", dev, max_tokens=16))


def test_it_does_what_the_stock_pipeline_does_without_embedded_guidance(schnell: Path) -> None:
    p = policy(schnell, cfg=2.0)  # with an empty negative prompt, which stock must be told
    assert "guidance_scale" not in p.call_settings()
    assert holds(list(kit._sampling(p, "")))


@pytest.mark.slow
def test_everything_without_embedded_guidance(schnell: Path) -> None:
    assert holds(kit.check("flux", schnell))


def test_the_guidance_scale_reaches_the_denoiser(dev: Path) -> None:
    p = policy(dev)
    embeds, _ = p.encode(sides.TEXTS)
    assert p.call_settings()["guidance_scale"] == 3.5
    usual = sides.one_step(p, embeds)
    assert torch.equal(usual, sides.one_step(policy(dev, guidance=3.5), embeds))
    p = policy(dev, guidance=1.0)
    assert (sides.one_step(p, embeds) - usual).abs().max() > 1e-3
    assert holds(list(kit._sampling(p, "")))


def test_embeddings_are_the_stock_ones(dev: Path) -> None:
    p = policy(dev, cfg=3.0, negative_prompt="a ring")
    embeds, truncated = p.encode(sides.TEXTS)
    assert truncated == 0
    pipe = sides.open_stock(p)
    for i, text in enumerate([*sides.TEXTS, "a ring"]):
        prompt, pooled, _ = pipe.encode_prompt(text, None, max_sequence_length=16)
        row, start = (slice(i, i + 1), "") if i < 3 else (slice(0, 1), "negative_")
        assert torch.equal(embeds[start + "prompt_embeds"][row], prompt)
        assert torch.equal(embeds[start + "pooled_prompt_embeds"][row], pooled)


def test_truncated_prompts_are_counted(dev: Path) -> None:
    long = "a red circle and a blue square"  # 26 CLIP tokens of 24, 8 of T5
    assert policy(dev).encode([long, "a ring"])[1] == 0  # T5 reads it to the end
    assert policy(dev, max_tokens=4).encode([long, "a ring"])[1] == 1


def test_noise_levels_follow_the_resolution(dev: Path, schnell: Path) -> None:
    import numpy as np

    line = np.linspace(1, 1 / 5, 5)
    grids = []
    for size in (16, 64):
        p = policy(dev, height=size, width=size)
        grids.append(p.schedule(5))
        tokens = (size // 8) ** 2
        p.pipe.scheduler.set_timesteps(sigmas=line, mu=0.5 + (1.15 - 0.5) * (tokens - 16) / 240)
        assert torch.equal(grids[-1].sigma, p.pipe.scheduler.sigmas)
        assert torch.equal(grids[-1].time, p.pipe.scheduler.timesteps)
    assert float(grids[1].sigma[2] - grids[0].sigma[2]) > 0.01
    assert policy(schnell).schedule(5).sigma.tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert p.schedule(5, shift=1.0).sigma.tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert p.schedule(2, shift=3.0, grid="linear").sigma.tolist() == pytest.approx([1, 0.75, 0])
    with pytest.raises(ValueError, match="choose model or linear"):
        p.schedule(4, grid="karras")
    p.pipe.scheduler.register_to_config(use_karras_sigmas=True)
    with pytest.raises(ValueError, match=r"use_karras_sigmas=True.*sampler.grid=linear"):
        p.schedule(4)


def test_positions_are_row_and_column() -> None:
    from diffusers import FluxPipeline

    theirs = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(positions(3, 5), theirs)


def test_lower_precision(dev: Path) -> None:
    outs = []
    for dtype in (Dtype.bfloat16, Dtype.float32):
        p = policy(dev, dtype=dtype)
        assert {w.dtype for _, w in p.trainable()} == {torch.float32}
        assert p.pipe.vae.dtype == torch.float32
        outs.append(sides.one_step(p, p.encode(sides.TEXTS)[0]))
    # bfloat16 has 8 bits; values are of order 1. The denoiser rounds the time too, up to 2 of 1000, and its
    # embedding turns by 1 rad a unit, so this is coarser than the weights.
    assert (outs[0] - outs[1]).abs().mean() < 0.1


def test_unused_components_are_not_read(dev: Path, tmp_path: Path) -> None:
    """An image encoder that does not even exist on the disk."""
    for part in dev.iterdir():
        (tmp_path / part.name).symlink_to(part)
    index = json.loads((dev / "model_index.json").read_text(encoding="utf-8"))
    (tmp_path / "model_index.json").unlink()
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert policy(tmp_path).pipe.image_encoder is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20}, r"height=20.*multiples of 8 pixels \(autoencoder 4 x packing 2\).*16 or 24"),
        ({"width": 4}, r"width=4.*the nearest is 8; type model.width=8"),
        ({"frames": 5}, r"frames=5: model.family=flux makes images; type model.frames=1"),
        ({"max_tokens": 600}, r"max_tokens=600.*takes 1 to 512"),
        ({"lora": LoraConfig(4, 4, ["attn2.to_q"])}, r"\['attn2.to_q'\] match no layer of FluxTransformer"),
        ({"family": "sd3"}, r"is a FluxPipeline, but this model.family drives a StableDiffusion3Pipeline"),
    ],
)
def test_errors_say_what_to_do(dev: Path, changes: dict[str, Any], message: str) -> None:
    family = changes.pop("family", "flux")
    with pytest.raises(ValueError, match=message):
        policy_of(family, dev, **changes)


def test_a_guidance_scale_for_a_model_that_is_told_none_is_refused(schnell: Path) -> None:
    with pytest.raises(ValueError, match=r"is told no guidance scale.*type model.guidance=null"):
        policy(schnell, guidance=3.5)


def test_the_card_gives_the_call(dev: Path, tmp_path: Path) -> None:
    p = policy(dev, cfg=2.0)
    assert isinstance(p, Flux)
    p.export(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "guidance_scale=3.5" in card
    assert "true_cfg_scale=2.0, negative_prompt=''" in card
