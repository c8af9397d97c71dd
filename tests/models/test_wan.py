"""Wan as a policy against the stock pipelines, on tiny random weights of the real classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.rollout.generate import generate
from rlvis.runtime import rng
from rlvis.schema import Condition, Dtype, LoraConfig, ModelConfig
from tests import sides, tiny, tiny_wan

TEXTS = ["a red circle", "a blue square"]
STEPS = 3
GIVEN = {"condition": Condition.first_frame}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan2.1: one time a sample, the released scheduler's grid."""
    return tiny.wan(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def expand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan2.2-TI2V: one time a token."""
    return tiny.wan(tmp_path_factory.mktemp("expand"), expand=True, seed=1)


def policy(folder: Path, **changes: Any) -> Policy:
    config = ModelConfig(
        family="wan", path=str(folder), height=32, width=48, frames=9, lora=LoraConfig(4, 8), max_tokens=16
    )
    options = {k: changes.pop(k) for k in ("keep_reference", "seed") if k in changes}
    return load_policy(dataclasses.replace(config, **changes), "cpu", **options)


def pictures(rows: int = 2) -> Tensor:
    return torch.randint(0, 256, (rows, 3, 32, 48), generator=torch.Generator().manual_seed(6)).to(
        torch.uint8
    )


@torch.no_grad()
def ode(p: Policy, x: Tensor, embeds: dict[str, Tensor]) -> Tensor:
    """The probability-flow ODE by Euler's rule, on the policy's grid."""
    from rlvis.flow.kernel import Kernel
    from rlvis.flow.transition import table

    grid = p.schedule(STEPS)
    steps, x = table(Kernel("ode"), grid), p.start(x, embeds)
    for i in range(STEPS):
        out = p.predict(p.module, x, grid.time[i].expand(len(x)), embeds)
        x = p.transition(steps, torch.full((len(x),), i), torch.zeros(len(x), dtype=torch.bool), x, out).mean
    return x


def call(pipe: Any, p: Policy, x: Tensor, kind: str, **more: Any) -> Tensor:
    result: Tensor = pipe(
        height=32,
        width=48,
        num_frames=p.config.frames,
        num_inference_steps=STEPS,
        guidance_scale=p.config.cfg,
        latents=x.clone(),
        max_sequence_length=16,
        output_type=kind,
        **more,
    ).frames
    return result


@pytest.mark.parametrize("which", ["plain", "expand"])
@pytest.mark.parametrize(("cfg", "frames"), [(1.0, 9), (4.5, 5), (4.5, 1)])
def test_the_ode_gives_what_the_stock_pipeline_gives(
    which: str, cfg: float, frames: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    p = policy(folder, cfg=cfg, frames=frames, negative_prompt="a ring" if cfg > 1 else "")
    x = sides.noise(p, 2)
    assert p.latent_shape == (4, (frames - 1) // 4 + 1, 8, 12)
    embeds, _ = p.encode(TEXTS)
    ours = ode(p, x, embeds)
    words: dict[str, Any] = {"prompt": TEXTS}
    if cfg > 1:
        words["negative_prompt"] = ["a ring"] * 2
    pipe = sides.open_pipeline(folder, "WanPipeline")
    assert (ours - call(pipe, p, x, "latent", **words)).abs().max() <= 1e-5
    pixels = call(pipe, p, x, "pt", **words)
    assert pixels.shape == (2, frames, 3, 32, 48)
    assert (p.decode_chunk(ours) - pixels).abs().max() <= 1e-5
    decoded = p.decode(ours)
    assert decoded.dtype == torch.uint8
    assert decoded.float().std() > 10  # not blank
    # Rounded from values that may differ in their last bits.
    assert (decoded.float() - pixels * 255).abs().max() <= 0.5 + 255 * 1e-5


@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_a_first_frame_gives_what_the_stock_image_to_video_pipeline_gives(expand: Path, cfg: float) -> None:
    p = policy(expand, cfg=cfg, **GIVEN)
    x, frames = sides.noise(p, 2), pictures()
    embeds, _ = p.encode(TEXTS, frames)
    assert embeds["condition"].shape == (2, 4, 1, 8, 12)
    ours = ode(p, x, embeds)
    assert torch.equal(ours[:, :, :1], embeds["condition"])
    pipe = sides.open_pipeline(expand, "WanImageToVideoPipeline")
    for i, text in enumerate(TEXTS):  # the stock call takes one picture for all prompts
        image = frames[i : i + 1].float() / 255
        assert (
            ours[i : i + 1] - call(pipe, p, x[i : i + 1], "latent", prompt=text, image=image)
        ).abs().max() < 1e-5
        pixels = call(pipe, p, x[i : i + 1], "pt", prompt=text, image=image)
        assert (p.decode_chunk(ours)[i : i + 1] - pixels).abs().max() <= 1e-5
    other = ode(p, x, p.encode(TEXTS, frames.flip(0))[0])
    assert (other - ours)[:, :, 1:].abs().max() > 1e-2  # the frame reaches the others


def test_a_clip_starts_with_the_reconstruction_of_its_frame(expand: Path) -> None:
    p = policy(expand, **GIVEN)
    embeds, _ = p.encode(TEXTS, pictures())
    alone = p.pipe.vae.decode(embeds["condition"] / p._moments()[1] + p._moments()[0]).sample[:, :, 0]  # type: ignore[attr-defined]
    clip = p.decode(ode(p, sides.noise(p, 2), embeds))[:, 0]
    assert (clip.float() - ((alone / 2 + 0.5).clamp(0, 1) * 255)).abs().max() <= 0.51


def test_generate_starts_from_the_frame(expand: Path) -> None:
    p = policy(expand, **GIVEN)
    frames = pictures()
    prompts = PromptBatch(
        index=torch.tensor([3, 4]),
        texts=tuple(TEXTS),
        metadata=({}, {}),
        embeds=p.encode(TEXTS, frames)[0],
        frames=frames,
    )
    clips = generate(p, p.module, prompts, p.schedule(STEPS), seed=2, micro_batch=2)
    x = rng.noise(p.latent_shape, seed=2, step=-1, prompts=[3, 4], samples=[0, 0], purpose="initial")
    assert torch.equal(clips, p.decode(ode(p, x, prompts.embeds)))


def test_embeddings_do_not_depend_on_company(expand: Path) -> None:
    p = policy(expand, cfg=3.0, negative_prompt="a ring", **GIVEN)
    frames = pictures()
    embeds, truncated = p.encode(TEXTS, frames)
    assert truncated == 0
    assert set(embeds) == {"prompt_embeds", "negative_prompt_embeds", "condition"}
    alone, _ = p.encode(TEXTS[1:], frames[1:])
    assert all(torch.equal(embeds[name][1:], value) for name, value in alone.items())
    theirs = sides.open_pipeline(expand, "WanPipeline").encode_prompt(
        TEXTS[0], "a ring", max_sequence_length=16
    )
    assert torch.equal(embeds["prompt_embeds"][:1], theirs[0])
    assert torch.equal(embeds["negative_prompt_embeds"][:1], theirs[1])
    assert policy(expand, max_tokens=3).encode(TEXTS)[1] == 2  # three words and the end


def test_grids(plain: Path, tmp_path: Path) -> None:
    p = policy(plain)
    released = policy(tiny.wan(tmp_path, unipc=True))
    for each in (p, released):
        each.pipe.scheduler.set_timesteps(10)
        assert torch.equal(each.schedule(10).sigma, each.pipe.scheduler.sigmas)
        assert torch.equal(each.schedule(10).time, each.pipe.scheduler.timesteps.float())
    assert 0.9999 < released.schedule(10).sigma[0] < 1
    assert torch.allclose(released.schedule(2, grid="linear").sigma, torch.tensor([1, 0.75, 0]))
    assert not torch.equal(released.schedule(10, shift=5.0).sigma, released.schedule(10).sigma)
    with pytest.raises(ValueError, match="choose model or linear"):
        p.schedule(4, grid="karras")
    released.pipe.scheduler.register_to_config(use_flow_sigmas=False)
    with pytest.raises(ValueError, match=r"use_flow_sigmas=False.*sampler.grid=linear"):
        released.schedule(4)
    p.pipe.scheduler = released.pipe.text_encoder
    with pytest.raises(ValueError, match="is a UMT5EncoderModel, and the grids of UniPC"):
        p.schedule(4)


def train_a_little(p: Policy, scale: float = 0.1) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in p.trainable():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))


def test_lora_opens_in_the_stock_pipelines(expand: Path, tmp_path: Path) -> None:
    p = policy(expand, **GIVEN)
    assert len(p.trainable()) == 2 * 8 * 2  # blocks, layers, A and B
    x, frames = sides.noise(p, 1), pictures(1)
    embeds, _ = p.encode(TEXTS[:1], frames)
    before = ode(p, x, embeds)
    train_a_little(p)
    after = ode(p, x, embeds)
    assert (after - before).abs().max() > 1e-2
    p.export(tmp_path)
    pipe = sides.open_pipeline(expand, "WanImageToVideoPipeline")
    pipe.load_lora_weights(tmp_path)
    theirs = call(pipe, p, x, "latent", prompt=TEXTS[0], image=frames.float() / 255)
    assert (after - theirs).abs().max() <= 1e-5
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "WanImageToVideoPipeline.from_pretrained" in card
    assert 'pipe(YOUR_FRAME, "YOUR PROMPT"' in card


def test_full_export_opens_in_the_stock_pipeline(expand: Path, tmp_path: Path) -> None:
    p = policy(expand, lora=None)
    x = sides.noise(p, 2)
    embeds, _ = p.encode(TEXTS)
    train_a_little(p, 0.02)
    after = ode(p, x, embeds)
    p.export(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    assert index["expand_timesteps"] is True
    theirs = call(sides.open_pipeline(tmp_path, "WanPipeline"), p, x, "latent", prompt=TEXTS)
    assert (after - theirs).abs().max() <= 1e-5
    policy(tmp_path, **GIVEN)  # and what was exported still takes a first frame
    # A folder of the other class opens too.
    index["_class_name"] = "WanImageToVideoPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert torch.equal(ode(policy(tmp_path), x, embeds), after)


def test_gradient_checkpointing_changes_nothing(expand: Path) -> None:
    runs = []
    for checkpointing in (False, True):
        p = policy(expand, cfg=2.0, gradient_checkpointing=checkpointing, **GIVEN)
        train_a_little(p)
        embeds, _ = p.encode(TEXTS, pictures())
        out = p.predict(p.module, p.start(sides.noise(p, 2), embeds), torch.full((2,), 700.0), embeds)
        out.square().mean().backward()
        runs.append([out.detach(), *(w.grad for _, w in p.trainable())])
    assert len(runs[0]) == 33
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_lower_precision_keeps_lora_and_autoencoder_in_float32(expand: Path) -> None:
    p = policy(expand, dtype=Dtype.bfloat16, cfg=2.0, **GIVEN)
    assert {w.dtype for _, w in p.trainable()} == {torch.float32}
    assert p.pipe.vae.dtype == torch.float32
    embeds, _ = p.encode(TEXTS, pictures())
    assert embeds["condition"].dtype == torch.float32
    exact = policy(expand, cfg=2.0, **GIVEN)
    outs = []
    for q in (p, exact):
        x = q.start(sides.noise(q, 2), embeds)
        outs.append(q.predict(q.module, x, torch.full((2,), 700.0), q.encode(TEXTS, pictures())[0]))
    # bfloat16 has 8 bits, guidance 2 doubles the error; values are of order 1.
    assert (outs[0] - outs[1]).abs().mean() < 5e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 24}, r"height=24.*multiples of 16 pixels .* from 16 to 256; the nearest is 16 or 32"),
        ({"width": 300}, r"width=300.*the nearest is 256; type model.width=256"),
        ({"frames": 7}, r"frames=7.*4 k \+ 1 frames; the nearest is 5 or 9; type model.frames=5"),
        ({"frames": 1, **GIVEN}, r"at least 5 after a condition frame; the nearest is 5"),
        ({"max_tokens": 0}, "takes 1 to 512 tokens"),
        ({"lora": LoraConfig(4, 4, ["attn3.to_q"])}, r"\['attn3.to_q'\].*attn1.to_q"),
    ],
)
def test_errors_say_what_to_do(expand: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(expand, **changes)


def test_what_cannot_be_is_refused_before_weights_are_read(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"makes clips from text alone; type model.condition=none"):
        policy(plain, **GIVEN)
    index = json.loads((plain / "model_index.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"boundary_ratio": 0.9}, r"boundary_ratio=0.9 and transformer_2=.*two experts need both"),
        (
            {"_class_name": "WanImageToVideoPipeline"},
            "makes clips from a first frame; type model.condition=f",
        ),
        ({"_class_name": "FluxPipeline"}, r"drives a WanPipeline or WanImageToVideoPipeline"),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps(index | change), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            policy(tmp_path)


def test_other_channels_are_refused(tmp_path: Path) -> None:
    folder = tiny.wan(tmp_path, transformer=tiny_wan.denoiser(12))
    with pytest.raises(ValueError, match=r"takes 12 channels, and 4 were expected, for latents of 4;"):
        policy(folder)


def test_frames_that_do_not_fit_are_refused(expand: Path, sd3_folder: Path) -> None:
    p = policy(expand, **GIVEN)
    with pytest.raises(ValueError, match="these prompts bring none; type data=shapes_i2v"):
        p.encode(TEXTS)
    with pytest.raises(ValueError, match=r"wanted uint8 \[2, 3, 32, 48\], got torch.uint8 \[2, 3, 16, 48\]"):
        p.encode(TEXTS, pictures()[:, :, :16])
    with pytest.raises(ValueError, match=r"model\.condition=none starts from noise"):
        policy(expand).encode(TEXTS, pictures())
    config = ModelConfig(family="sd3", path=str(sd3_folder), height=32, width=32, **GIVEN)
    with pytest.raises(ValueError, match=r"model\.family=sd3 starts from noise alone"):
        load_policy(config, "cpu")
