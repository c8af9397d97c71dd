"""Stable Diffusion XL as a policy against the stock pipeline under DDIM, on tiny random weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.cli import main
from rlvis.data.prompts import ASSETS
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig, ModelConfig
from tests import kit, sides, tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With Euler's scheduler, as released."""
    return tiny_sd.sdxl(tmp_path_factory.mktemp("sdxl"))


def policy(folder: Path, **changes: Any) -> Policy:
    config = ModelConfig(family="sdxl", path=str(folder), height=16, width=40, lora=LoraConfig(4, 8))
    return load_policy(dataclasses.replace(config, **changes), "cpu")


def test_parity_with_the_stock_pipeline(folder: Path) -> None:
    # Guidance 3 instead of 4.5: these latents reach 10, and their last bits are guided too.
    results = kit.check("sdxl", folder, height=16, width=40, cfg=3.0)
    assert all(result.ok for result in results), "\n" + kit.table(results)
    assert len(results) > 8


@pytest.mark.parametrize("zeros", [True, False])
def test_an_empty_negative_prompt_is_the_stock_one(folder: Path, tmp_path: Path, zeros: bool) -> None:
    """Zeros where the checkpoint was trained with them, the encoded empty text where it was not."""
    where = folder if zeros else tiny_sd.sdxl(tmp_path, zeros=False)
    p = policy(where, cfg=2.0)
    embeds, _ = p.encode(["a red circle", "a ring"])
    assert set(embeds) == {
        f"{start}{name}" for start in ("", "negative_") for name in ("prompt_embeds", "pooled_prompt_embeds")
    }
    theirs = sides.open_pipeline(where, "StableDiffusionXLPipeline").encode_prompt("a ring")
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    for name, value in zip(names, theirs, strict=True):
        assert torch.equal(embeds[name][1:], value), name
    assert bool(embeds["negative_prompt_embeds"].any()) is not zeros
    if zeros:
        x = sides.noise(p)
        theirs = sides.stock(p, sides.open_stock(p), x, "latent")
        ours = p.stock_latents(sides.ode(p, x, sides.embedded(p)[0]))
        assert (ours - theirs).abs().max() <= kit.LATENTS_BOUND


def test_the_unet_is_told_the_size_of_the_sample(folder: Path) -> None:
    """The same latents under another size are another output; the stock call agrees (parity above)."""
    p = policy(folder)
    embeds, _ = sides.embedded(p)
    ids = p.added(torch.zeros(2, 4, 1, 4, 10), embeds)["added_cond_kwargs"]["time_ids"]  # type: ignore[attr-defined]
    assert ids.tolist() == [[16, 40, 0, 0, 16, 40]] * 2
    before = sides.one_step(p, embeds)
    p.config = dataclasses.replace(p.config, height=512)
    assert (sides.one_step(p, embeds) - before).abs().max() > 1e-3


def test_pooled_text_matters_and_truncation_is_counted(folder: Path) -> None:
    p = policy(folder)
    embeds, truncated = p.encode(["a red circle and a blue square", "a ring", "a circle"])
    assert truncated == 1
    before = sides.one_step(p, embeds)
    embeds["pooled_prompt_embeds"] = embeds["pooled_prompt_embeds"].flip(0)
    assert (sides.one_step(p, embeds) - before).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20}, r"height=20.*the nearest is 16 or 24"),
        ({"frames": 2}, "XL models make images"),
        ({"lora": LoraConfig(4, 4, ["attn3.to_q"])}, "match no layer"),
        ({"family": "sd15"}, "drives a StableDiffusionPipeline"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(folder, **changes)


def test_a_normalising_autoencoder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    load = diffusers.AutoencoderKL.from_pretrained

    def changed(*words: Any, **options: Any) -> Any:
        vae = load(*words, **options)
        vae.register_to_config(latents_mean=[0.0] * 4)
        return vae

    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", changed)
    with pytest.raises(ValueError, match=r"latents_mean, as Playground v2.5"):
        policy(folder)


def test_two_training_steps_by_the_command_line(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["model=sdxl", "sampler=ddim", "engine=zero1", "reward=jpeg", "data=txt", "advantage=grpo"]
    words += [f"data.path={ASSETS / 'scenes.txt'}", f"model.path={folder}", f"run_dir={run}"]
    words += [
        "model.height=32",
        "model.width=32",
        "model.lora.rank=4",
        "model.dtype=float32",
        "engine.device=cpu",
        "threads=1",
    ]
    words += ["data.prompts_per_step=2", "data.samples_per_prompt=2", "train.micro_batch=4"]
    words += ["sampler.steps=3", "train.steps=2", "tracker.samples_every=0"]
    assert main(["train", *words]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line["ratio/max_deviation_first"] for line in lines) <= 1e-6  # rows change places
