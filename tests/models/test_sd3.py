"""Stable Diffusion 3 as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import CfgGrad, Dtype, LoraConfig, ModelConfig
from tests import sides, tiny

TEXTS = ["a red circle", "a blue square", "a ring"]
STEPS = 4


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD3 with CLIP only."""
    return tiny.sd3(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD3.5 with T5, the second attention and normalised queries and keys."""
    return tiny.sd3(tmp_path_factory.mktemp("full"), t5=True, dual=True, qk_norm="rms_norm", seed=1)


def policy(folder: Path, **changes: Any) -> Policy:
    config = ModelConfig(
        family="sd3", path=str(folder), height=16, width=24, lora=LoraConfig(4, 8), max_tokens=16
    )
    options = {k: changes.pop(k) for k in ("keep_reference", "seed") if k in changes}
    return load_policy(dataclasses.replace(config, **changes), "cpu", **options)


@torch.no_grad()
def euler(p: Policy, x: Tensor, embeds: dict[str, Tensor]) -> Tensor:
    """The probability-flow ODE by Euler's rule, on the policy's grid."""
    grid = p.schedule(STEPS)
    for i in range(STEPS):
        v = p.predict(p.module, x, grid.time[i].expand(len(x)), embeds)
        x = x + (grid.sigma[i + 1] - grid.sigma[i]) * v
    return x


def one_step(p: Policy, x: Tensor, embeds: dict[str, Tensor]) -> Tensor:
    return p.predict(p.module, x, torch.full((len(x),), 700.0), embeds)


def stock_call(folder: Path, p: Policy, x: Tensor, output_type: str, **more: Any) -> Any:
    return tiny.stock_sd3(folder)(
        height=16,
        width=24,
        num_inference_steps=STEPS,
        guidance_scale=p.config.cfg,
        latents=x[:, :, 0],
        max_sequence_length=16,
        output_type=output_type,
        **more,
    ).images


@pytest.mark.parametrize("which", ["plain", "full"])
@pytest.mark.parametrize("cfg", [1.0, 4.5])
def test_the_ode_gives_what_the_stock_pipeline_gives(
    which: str, cfg: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    p = policy(folder, cfg=cfg, negative_prompt="a green ring" if which == "full" else "")
    x = sides.noise(p)
    assert p.latent_shape == (4, 1, 4, 6)
    embeds, _ = p.encode(TEXTS)
    ours = euler(p, x, embeds)
    prompts = {"prompt": TEXTS}
    if cfg > 1:
        prompts["negative_prompt"] = [p.config.negative_prompt] * 3
    theirs = stock_call(folder, p, x, "latent", **prompts)
    # The stock call encodes three prompts at once, we one at a time: embeddings differ in their last bits.
    assert (ours[:, :, 0] - theirs).abs().max() <= 1e-5
    # From the same embeddings it is the same arithmetic.
    assert torch.equal(ours[:, :, 0], stock_call(folder, p, x, "latent", **embeds))
    pictures = np.stack([np.asarray(image) for image in stock_call(folder, p, x, "pil", **embeds)])
    decoded = p.decode(ours)
    assert decoded.shape == (3, 1, 3, 16, 24)
    assert decoded.dtype == torch.uint8
    assert decoded.float().std() > 10  # not a blank picture
    wanted = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    # At the stock call's batch size every level is equal; the padded chunks of `decode` may round otherwise.
    assert torch.equal((p.decode_chunk(ours)[:, 0] * 255).round().byte(), wanted)
    apart = (decoded[:, 0].int() - wanted.int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 2e-3


@pytest.mark.parametrize("which", ["plain", "full"])
def test_embeddings_are_the_stock_ones_and_do_not_depend_on_company(
    which: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    p = policy(folder, cfg=3.0, negative_prompt="a ring")
    embeds, truncated = p.encode(TEXTS)
    assert truncated == 0
    assert set(embeds) == {
        "prompt_embeds",
        "pooled_prompt_embeds",
        "negative_prompt_embeds",
        "negative_pooled_prompt_embeds",
    }
    pipe = tiny.stock_sd3(folder)
    assert not embeds["prompt_embeds"].requires_grad
    for i, text in enumerate(TEXTS):
        theirs = pipe.encode_prompt(text, None, None, negative_prompt="a ring", max_sequence_length=16)
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        for name, value in zip(names, theirs, strict=True):
            assert torch.equal(embeds[name][i : i + 1], value), name
    alone, _ = p.encode(TEXTS[1:2])
    assert all(torch.equal(embeds[name][1:2], value) for name, value in alone.items())
    assert not torch.equal(embeds["prompt_embeds"][0], embeds["prompt_embeds"][1])


def test_truncated_prompts_are_counted(plain: Path, full: Path) -> None:
    long = "a red circle and a blue square"  # 24 letters and the two ends: 26 CLIP tokens of 24, but 8 words
    assert policy(plain).encode([long, "a ring"])[1] == 1
    assert policy(full).encode([long, "a ring"])[1] == 0  # T5 reads it to the end
    assert policy(full, max_tokens=4).encode([long, "a ring"])[1] == 1


def test_without_guidance_there_is_no_negative_branch(plain: Path) -> None:
    embeds, _ = policy(plain).encode(TEXTS)
    assert set(embeds) == {"prompt_embeds", "pooled_prompt_embeds"}
    guided = policy(plain, cfg=2.0)
    with pytest.raises(ValueError, match="encode them again"):
        one_step(guided, sides.noise(guided), embeds)


def test_a_picture_does_not_depend_on_its_batch(plain: Path) -> None:
    p = policy(plain)
    latents = sides.noise(p, 18)  # more than one chunk of 16
    together = p.decode(latents)
    assert torch.equal(together[16:], p.decode(latents[16:]))
    assert torch.equal(together[3:5], p.decode(latents[3:5]))


def test_grids(plain: Path) -> None:
    p = policy(plain)
    grid = p.schedule(10)
    # diffusers 0.42, FlowMatchEulerDiscreteScheduler(shift=3), 10 steps.
    wanted = [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0]
    assert torch.allclose(grid.sigma, torch.tensor(wanted), atol=5e-5)
    scheduler = tiny.stock_sd3(plain).scheduler
    scheduler.set_timesteps(10)
    assert torch.equal(grid.sigma, scheduler.sigmas)
    assert torch.equal(grid.time, scheduler.timesteps)
    assert torch.allclose(p.schedule(2, grid="linear").sigma, torch.tensor([1, 0.75, 0]))
    assert torch.allclose(p.schedule(2, shift=1.0, grid="linear").sigma, torch.tensor([1, 0.5, 0]))
    assert p.schedule(10, shift=1.0).sigma[1] < 0.95
    with pytest.raises(ValueError, match="choose model or linear"):
        p.schedule(4, grid="karras")
    p.pipe.scheduler.register_to_config(use_karras_sigmas=True)
    with pytest.raises(ValueError, match=r"use_karras_sigmas=True.*sampler.grid=linear"):
        p.schedule(4)


def test_lora_opens_in_the_stock_pipeline(plain: Path, tmp_path: Path) -> None:
    p = policy(plain, cfg=2.0)
    base = {name: value.clone() for name, value in p.module.state_dict().items() if "lora" not in name}
    embeds, _ = p.encode(TEXTS)
    x = sides.noise(p)
    before = one_step(p, x, embeds)
    sides.train_a_little(p)
    after = one_step(p, x, embeds)
    assert (after - before).abs().max() > 1e-2
    p.export(tmp_path)
    pipe = tiny.stock_sd3(plain)
    pipe.load_lora_weights(tmp_path)

    def theirs() -> Tensor:
        with torch.no_grad():
            p_stock = policy(plain, cfg=2.0, lora=None)
            return p_stock.predict(pipe.transformer, x, torch.full((3,), 700.0), embeds)

    assert torch.equal(after, theirs())
    assert all(torch.equal(value, p.module.state_dict()[name]) for name, value in base.items())
    # As programs open it that read no metadata, and take alpha to be the rank.
    name = "pytorch_lora_weights.safetensors"
    (tmp_path / "bare").mkdir()
    save_file(load_file(tmp_path / name), tmp_path / "bare" / name)
    pipe.unload_lora_weights()
    assert not torch.equal(after, theirs())
    pipe.load_lora_weights(tmp_path / "bare")
    assert torch.equal(after, theirs())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "load_lora_weights" in card
    assert "guidance_scale=2.0" in card
    assert "max_sequence_length=16" in card


def test_lora_export_takes_weights_by_name(plain: Path, tmp_path: Path) -> None:
    p = policy(plain)
    embeds, _ = p.encode(TEXTS)
    x = sides.noise(p)
    before = {name: value.clone() for name, value in p.trainable()}
    sides.train_a_little(p)
    trained = {name: value.detach().clone() for name, value in p.trainable()}
    after = one_step(p, x, embeds)
    with torch.no_grad():
        for name, parameter in p.trainable():
            parameter.copy_(before[name])
    p.export(tmp_path / "given", trained)
    p.export(tmp_path / "own")
    pipe = tiny.stock_sd3(plain)
    pipe.load_lora_weights(tmp_path / "given")
    assert torch.equal(after, p.predict(pipe.transformer, x, torch.full((3,), 700.0), embeds))
    name = "pytorch_lora_weights.safetensors"
    given, untrained = load_file(tmp_path / "given" / name), load_file(tmp_path / "own" / name)
    assert len(given) == len(trained)
    assert not any(bool(value.any()) for key, value in untrained.items() if "lora_B" in key)
    assert all(bool(value.any()) for key, value in given.items())
    del trained[next(iter(trained))]
    with pytest.raises(ValueError, match="missing or unknown"):
        p.export(tmp_path / "bad", trained)


@pytest.mark.parametrize("which", ["plain", "full"])
def test_full_export_opens_in_the_stock_pipeline(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    p = policy(folder, lora=None, cfg=2.0)
    embeds, _ = p.encode(TEXTS)
    x = sides.noise(p)
    before = {name: value.detach().clone() for name, value in p.trainable()}
    sides.train_a_little(p, 0.02)
    after = euler(p, x, embeds)
    weights = {name: value.detach().clone() for name, value in p.trainable()}
    with torch.no_grad():
        for name, parameter in p.trainable():
            parameter.copy_(before[name])
    p.export(tmp_path, weights)
    assert torch.equal(stock_call(tmp_path, p, x, "latent", **embeds), after[:, :, 0])
    assert not torch.equal(stock_call(folder, p, x, "latent", **embeds), after[:, :, 0])
    assert all(torch.equal(before[name], value) for name, value in p.trainable())
    again = policy(tmp_path, cfg=2.0)
    assert torch.equal(euler(again, x, embeds), after)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("text_encoder_3=None" in card) == (which == "plain")
    assert str(folder) not in card


@pytest.mark.parametrize("lora", [True, False])
def test_the_reference_is_the_policy_before_training(plain: Path, lora: bool) -> None:
    p = policy(plain, cfg=2.0, keep_reference=True, **({} if lora else {"lora": None}))
    embeds, _ = p.encode(TEXTS)
    x = sides.noise(p)
    base = policy(plain, cfg=2.0, lora=None)
    before = one_step(base, x, embeds).detach()
    names = [name for name, _ in p.trainable()]
    assert torch.equal(one_step(p, x, embeds), before)  # a new LoRA changes nothing
    sides.train_a_little(p)
    with p.reference():
        reference = one_step(p, x, embeds)
    assert torch.equal(reference, before)
    assert not reference.requires_grad
    after = one_step(p, x, embeds)
    assert (after - before).abs().max() > 1e-2
    assert after.requires_grad
    assert [name for name, _ in p.trainable()] == names


def test_gradients_pass_around_a_reference(plain: Path) -> None:
    """The KL term's order: policy forward, reference forward, backward."""
    p = policy(plain, gradient_checkpointing=True)
    embeds, _ = p.encode(TEXTS)
    x = sides.noise(p)
    sides.train_a_little(p)
    one_step(p, x, embeds).square().mean().backward()
    alone = [parameter.grad.clone() for _, parameter in p.trainable() if parameter.grad is not None]
    p.module.zero_grad()
    out = one_step(p, x, embeds)
    with p.reference():
        one_step(p, x, embeds)
    out.square().mean().backward()
    around = [parameter.grad for _, parameter in p.trainable() if parameter.grad is not None]
    assert len(around) == len(p.trainable()) > 10
    assert all(torch.equal(a, b) for a, b in zip(alone, around, strict=True))


def test_full_training_without_a_copy_has_no_reference(plain: Path) -> None:
    p = policy(plain, lora=None)
    with pytest.raises(ValueError, match="keep_reference=True"), p.reference():
        pass


def gradients(p: Policy, embeds: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    out = one_step(p, sides.noise(p), embeds)
    out.square().mean().backward()
    return out.detach(), [parameter.grad for _, parameter in p.trainable() if parameter.grad is not None]


@pytest.mark.parametrize("lora", [True, False])
def test_rollout_and_update_see_the_same_numbers(full: Path, lora: bool) -> None:
    """Without gradients, with them, and again after the reference: what makes the first ratio exactly 1."""
    p = policy(full, cfg=2.0, keep_reference=True, **({} if lora else {"lora": None}))
    embeds, _ = p.encode(TEXTS)
    x = sides.noise(p)
    sides.train_a_little(p, 0.02)
    with torch.no_grad():
        rollout = one_step(p, x, embeds)
    assert torch.equal(one_step(p, x, embeds), rollout)
    with p.reference():
        assert not torch.equal(one_step(p, x, embeds), rollout)
    assert torch.equal(one_step(p, x, embeds), rollout)


def test_gradient_checkpointing_changes_nothing(full: Path) -> None:
    runs = []
    for checkpointing in (False, True):
        p = policy(full, cfg=2.0, gradient_checkpointing=checkpointing)
        sides.train_a_little(p)
        assert p.module.gradient_checkpointing is checkpointing
        runs.append(gradients(p, p.encode(TEXTS)[0]))
    (out, grads), (out_checkpointed, grads_checkpointed) = runs
    assert torch.equal(out, out_checkpointed)
    assert len(grads) == len(grads_checkpointed) > 10
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_checkpointed, strict=True))


def test_cfg_grad_conditional_cuts_the_negative_branch(plain: Path) -> None:
    """v = u + g (c - u): conditional keeps g dc only, both also has (1 - g) du."""
    values: dict[CfgGrad, Tensor] = {}
    grads: dict[CfgGrad, list[Tensor]] = {}
    for mode in CfgGrad:
        p = policy(plain, cfg=3.0, cfg_grad=mode)
        sides.train_a_little(p)
        embeds, _ = p.encode(TEXTS)
        out = one_step(p, sides.noise(p), embeds)
        out.sum().backward()
        values[mode] = out.detach()
        grads[mode] = [w.grad for _, w in p.trainable() if w.grad is not None]
    assert (values[CfgGrad.both] - values[CfgGrad.conditional]).abs().max() < 1e-5
    by_hand = policy(plain)  # without guidance: each branch alone
    sides.train_a_little(by_hand)
    embeds = {name: value for name, value in embeds.items() if not name.startswith("negative_")}
    one_step(by_hand, sides.noise(by_hand), embeds).sum().mul(3.0).backward()
    for (_, parameter), got in zip(by_hand.trainable(), grads[CfgGrad.conditional], strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, got, rtol=1e-4, atol=1e-5)
    assert any(
        (a - b).abs().max() > 1e-3
        for a, b in zip(grads[CfgGrad.both], grads[CfgGrad.conditional], strict=True)
    )


def test_lora_start_depends_on_the_seed_alone(plain: Path) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = policy(plain, seed=7)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    torch.manual_seed(1)
    second, other = policy(plain, seed=7), policy(plain, seed=8)
    pairs = list(zip(first.trainable(), second.trainable(), other.trainable(), strict=True))
    assert all(torch.equal(a, b) for (_, a), (_, b), _ in pairs)
    assert any(not torch.equal(a, c) for (_, a), _, (_, c) in pairs)
    # Two blocks: 8 layers in the first, 7 in the last (which has no to_add_out); A and B each.
    assert len(first.trainable()) == 2 * (8 + 7)
    assert {name.split("lora_")[1][0] for name, _ in first.trainable()} == {"A", "B"}


def test_lower_precision_keeps_lora_and_autoencoder_in_float32(plain: Path) -> None:
    p = policy(plain, dtype=Dtype.bfloat16, cfg=2.0)
    assert {w.dtype for _, w in p.trainable()} == {torch.float32}
    frozen = {w.dtype for w in p.module.parameters() if not w.requires_grad}
    assert frozen == {torch.bfloat16}
    assert p.pipe.vae.dtype == torch.float32
    embeds, _ = p.encode(TEXTS)
    out = one_step(p, sides.noise(p), embeds)
    assert out.dtype == torch.float32
    out.mean().backward()
    exact = policy(plain, cfg=2.0)
    # bfloat16 has 8 bits, guidance 2 doubles the error; values are of order 1.
    assert (out - one_step(exact, sides.noise(p), exact.encode(TEXTS)[0])).abs().mean() < 5e-2
    assert p.decode(sides.noise(p)).dtype == torch.uint8


def test_only_the_denoiser_is_trained(plain: Path) -> None:
    p = policy(plain, lora=None)
    assert len(p.trainable()) == len(list(p.module.parameters()))
    frozen = [p.pipe.vae, p.pipe.text_encoder, p.pipe.text_encoder_2]
    assert not any(w.requires_grad for component in frozen for w in component.parameters())
    assert not any(component.training for component in [*frozen, p.module])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20}, r"height=20.*multiples of 8 .*nearest is 16 or 24"),
        ({"width": 72}, r"width=72.*from 8 to 64; the nearest is 64"),
        ({"width": 4}, r"width=4.*the nearest is 8"),
        ({"frames": 5}, "model.frames=1"),
        ({"max_tokens": 600}, "1 to 512"),
        ({"family": "sd33"}, r"did you mean sd3\?"),
        ({"lora": LoraConfig(4, 4, ["to_qq"])}, r"\['to_qq'\].*attn.to_q"),
        ({"lora": LoraConfig(4, 4, ["attn.to_q", "attn"])}, r"\['attn'\] match no layer"),
        ({"lora": LoraConfig(0, 4)}, "rank=0"),
        ({"path": "asset:nothing"}, "no such policy in rlvis"),
        ({"path": "/nowhere/at/all"}, "there is no such folder"),
        ({"path": "./nowhere"}, "there is no such folder"),
    ],
)
def test_errors_say_what_to_do(plain: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(plain, **changes)


def test_a_pipeline_of_another_family_is_named(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a complete diffusers pipeline"):
        policy(tmp_path)
    index = json.loads((plain / "model_index.json").read_text(encoding="utf-8"))
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match="not a complete diffusers pipeline"):
        policy(tmp_path)
    index["_class_name"] = "FluxPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is a FluxPipeline, .* drives a StableDiffusion3Pipeline"):
        policy(tmp_path)


def test_a_hub_repository_that_cannot_be_had(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("could not connect")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", refuse)
    with pytest.raises(
        ValueError, match=r"some/model \(revision main\).*hf auth login.*hf download some/model"
    ):
        policy(plain, path="some/model", revision="main")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("diffusers").setLevel(logging.ERROR)
