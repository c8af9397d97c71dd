"""Stable Diffusion 1.x as a policy against the stock pipeline under DDIM, on tiny random weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.cli import main
from rlvis.data.prompts import ASSETS
from rlvis.flow import transition
from rlvis.flow.kernel import Kernel
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import CfgGrad, Dtype, LoraConfig, ModelConfig
from tests import kit, sides, tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With PNDM and a safety checker, as released."""
    return tiny_sd.sd15(tmp_path_factory.mktemp("sd15"), checker=True)


def ddim(folder: Path, **changes: Any) -> Path:
    """Save a pipeline whose scheduler is DDIM, with `changes` of its configuration."""
    from diffusers import DDIMScheduler

    return tiny_sd.sd15(folder, scheduler=DDIMScheduler(**(tiny_sd.BETAS | changes), clip_sample=False))


def policy(folder: Path, **changes: Any) -> Policy:
    config = ModelConfig(family="sd15", path=str(folder), height=16, width=40, lora=LoraConfig(4, 8))
    options = {k: changes.pop(k) for k in ("keep_reference", "seed") if k in changes}
    return load_policy(dataclasses.replace(config, **changes), "cpu", **options)


def one_step(p: Policy) -> torch.Tensor:
    return sides.one_step(p, sides.embedded(p)[0])


def test_parity_with_the_stock_pipeline(folder: Path) -> None:
    """Latents, pixels, embeddings, ratio, gradients and both exports; 16 x 40 pixels, so the UNet meets odd
    sizes.
    """
    results = kit.check("sd15", folder, height=16, width=40)
    assert all(result.ok for result in results), "\n" + kit.table(results)
    assert len(results) > 8


def test_parity_of_velocity_and_trailing_timesteps(tmp_path: Path) -> None:
    """As Stable Diffusion 2.1 and its kin that start from pure noise."""
    changes = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    p = policy(ddim(tmp_path, **changes, rescale_betas_zero_snr=True), cfg=2.0)
    assert p.prediction == "v_prediction"
    embeds, _ = sides.embedded(p)
    x = sides.noise(p)
    grid = p.schedule(4)
    assert grid.time.tolist() == [999, 749, 499, 249]
    assert float(grid.alpha[0]) == 0
    assert float(grid.sigma[0]) == 1
    theirs = sides.stock(p, sides.open_stock(p), x, "latent", steps=4)
    assert (p.stock_latents(sides.ode(p, x, embeds, 4)) - theirs).abs().max() <= kit.LATENTS_BOUND
    with pytest.raises(ValueError, match=r"3 steps do not divide 1000; take [24]"):
        p.schedule(3)


def test_the_rollout_s_last_step_lands_on_x0(folder: Path) -> None:
    """What evaluations and sample sheets draw is DDIM with set_alpha_to_one: no noise left in the sample."""
    from diffusers import DDIMScheduler

    p = policy(folder)
    embeds, _ = sides.embedded(p)
    x = sides.noise(p)
    pipe = sides.open_stock(p)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
    theirs = sides.stock(p, pipe, x, "latent")
    grid = p.schedule(sides.STEPS)
    coefs = transition.table(Kernel("ode", prediction="epsilon"), grid)
    still = torch.zeros(len(x), dtype=torch.bool)
    with torch.no_grad():
        for i in range(sides.STEPS):
            out = p.predict(p.module, x, grid.time[i].expand(len(x)), embeds)
            x = p.transition(coefs, torch.full((len(x),), i), still, x, out).mean
    assert (x[:, :, 0] - theirs).abs().max() <= kit.LATENTS_BOUND


def test_the_grid_is_ddim_s_whatever_the_scheduler(folder: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    grid = policy(folder).schedule(50)
    stock = DDIMScheduler.from_config(sides.open_pipeline(folder, "StableDiffusionPipeline").scheduler.config)
    stock.set_timesteps(50)
    assert torch.equal(grid.time, stock.timesteps.float())
    assert torch.equal(grid.alpha[:-1], stock.alphas_cumprod[stock.timesteps].double().sqrt().float())
    assert grid.time[-1] == 1
    euler = EulerDiscreteScheduler(**tiny_sd.BETAS, timestep_spacing="linspace")
    assert torch.equal(policy(tiny_sd.sd15(tmp_path, scheduler=euler)).schedule(50).time, grid.time)


def test_the_safety_checker_is_never_read(folder: Path, tmp_path: Path) -> None:
    assert (folder / "safety_checker").is_dir()
    for entry in folder.iterdir():
        if entry.name not in ("safety_checker", "feature_extractor"):
            (tmp_path / entry.name).symlink_to(entry)
    p = policy(tmp_path)
    assert p.pipe.safety_checker is None
    p.export(tmp_path / "lora")
    whole = policy(tmp_path, lora=None)
    whole.export(tmp_path / "whole")
    index = json.loads((tmp_path / "whole" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert "StableDiffusionPipeline.from_pretrained" in (tmp_path / "lora" / "README.md").read_text()


@pytest.mark.parametrize("lora", [True, False])
def test_the_reference_is_the_policy_before_training(folder: Path, lora: bool) -> None:
    p = policy(folder, cfg=2.0, keep_reference=True, **({} if lora else {"lora": None}))
    before = one_step(policy(folder, cfg=2.0, lora=None)).detach()
    sides.train_a_little(p)
    with p.reference():
        assert torch.equal(one_step(p), before)
    after = one_step(p)
    assert (after - before).abs().max() > 1e-2
    assert after.requires_grad


def test_gradient_checkpointing_changes_nothing(folder: Path) -> None:
    runs = []
    for checkpointing in (False, True):
        p = policy(folder, cfg=2.0, gradient_checkpointing=checkpointing)
        sides.train_a_little(p)
        out = one_step(p)
        out.square().mean().backward()
        runs.append([out.detach(), *(w.grad for _, w in p.trainable() if w.grad is not None)])
    assert len(runs[0]) == len(runs[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_cfg_grad_conditional_has_the_values_of_both(folder: Path) -> None:
    outs, grads = [], []
    for mode in CfgGrad:
        p = policy(folder, cfg=3.0, cfg_grad=mode)
        sides.train_a_little(p)
        out = one_step(p)
        out.sum().backward()
        outs.append(out.detach())
        grads.append([w.grad for _, w in p.trainable() if w.grad is not None])
    assert (outs[0] - outs[1]).abs().max() < 1e-5
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(*grads, strict=True))


def test_half_precision_keeps_lora_and_autoencoder_in_float32(folder: Path) -> None:
    p = policy(folder, dtype=Dtype.bfloat16, cfg=2.0)
    assert {w.dtype for _, w in p.trainable()} == {torch.float32}
    assert (p.module.dtype, p.pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    assert one_step(p).dtype == torch.float32


def test_truncated_prompts_are_counted(folder: Path) -> None:
    long = "a red circle and a blue square"  # 26 tokens of 24
    assert policy(folder).encode([long, "a ring"])[1] == 1


def test_the_lora_is_on_both_attentions_of_every_block(folder: Path) -> None:
    names = [name for name, _ in policy(folder).trainable()]
    # One down, one middle and two up transformers; two attentions, four layers, A and B each.
    assert len(names) == 4 * 2 * 4 * 2
    assert all(".attn1.to_" in name or ".attn2.to_" in name for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20}, r"height=20.*multiples of 8 pixels; the nearest is 16 or 24; type model.height=16"),
        ({"width": 4}, r"the nearest is 8;"),
        ({"frames": 5}, "model.frames=1"),
        ({"max_tokens": 77}, r"CLIP's length is fixed \(24 tokens\)"),
        ({"guidance": 3.5}, "model.guidance=null"),
        ({"lora": LoraConfig(4, 4, ["attn.to_q"])}, r"\['attn.to_q'\] match no layer .*attn1.to_q"),
        ({"family": "sdxl"}, "is a StableDiffusionPipeline, .* drives a StableDiffusionXLPipeline"),
        ({"family": "sd3"}, "drives a StableDiffusion3Pipeline"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(folder, **changes)


def test_other_grids_are_refused(folder: Path) -> None:
    p = policy(folder)
    with pytest.raises(ValueError, match=r"sampler.grid=linear: .*sampler.grid=model"):
        p.schedule(4, grid="linear")
    with pytest.raises(ValueError, match=r"sampler.shift=3.0: .*no shift"):
        p.schedule(4, shift=3.0)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "flow_prediction", "known here are epsilon"),
        ("scheduler/scheduler_config.json", "beta_start", None, "PNDMScheduler without betas"),
        ("unet/config.json", "time_cond_proj_dim", 8, "latent consistency model"),
        ("unet/config.json", "in_channels", 9, "takes 9 channels and makes 4, as for inpainting"),
    ],
)
def test_checkpoints_of_another_kind_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: str, key: str, value: Any, message: str
) -> None:
    import diffusers

    load = diffusers.StableDiffusionPipeline.from_pretrained

    def changed(*words: Any, **options: Any) -> Any:
        pipe = load(*words, **options)
        component = getattr(pipe, part.split("/")[0])
        component.register_to_config(**{key: value})
        return pipe

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", changed)
    with pytest.raises(ValueError, match=message):
        policy(folder)


def test_two_steps_of_ddpo_by_the_command_line(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [f"data.path={ASSETS / 'scenes.txt'}", f"model.path={folder}", f"run_dir={run}"]
    words += ["model.height=32", "model.width=32", "model.dtype=float32", "engine.device=cpu", "threads=1"]
    words += ["data.prompts_per_step=2", "data.samples_per_prompt=4", "train.micro_batch=4"]
    words += ["sampler.steps=4", "train.steps=2", "train.updates_per_step=2", "tracker.samples_every=0"]
    assert main(["train", "experiment=ddpo_sd15", *words]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line["ratio/max_deviation_first"] for line in lines) <= 1e-6  # rows change places
    assert all(line["reward/jpeg/mean"] < 0 for line in lines)  # minus the size
