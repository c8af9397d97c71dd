"""What the cards of the tiny policies promise, on few samples: size, autoencoder, and room left to learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.compose.command import compose
from rlvis.data import sampler
from rlvis.data.prompts import load_prompts
from rlvis.data.world import checker, defects, draw, language, motion
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.rollout.generate import generate
from rlvis.schema import Config

ASSETS = Path(__file__).resolve().parents[2] / "rlvis" / "assets"
POLICIES = sorted(path.parent.name for path in ASSETS.glob("*/model_index.json"))
STILL = ("single", "size", "count", "relation")


def loaded(*words: str) -> tuple[Config, Policy]:
    config = compose([*words, "engine.device=cpu"]).typed()
    return config, load_policy(config.model, "cpu")


def drawn(config: Config, policy: Policy, steps: int) -> tuple[Tensor, PromptBatch]:
    """One sample of every held-out prompt."""
    prompts = load_prompts(config.data)
    batch = sampler.select(prompts, range(len(prompts)))
    batch = batch.replace(embeds=policy.encode(batch.texts, batch.frames)[0])
    return generate(policy, policy.module, batch, policy.schedule(steps), seed=3, micro_batch=26), batch


@torch.no_grad()
def reconstructed(policy: Any, clips: Tensor) -> Tensor:
    """Clips [B, M, 3, 32, 32] through the policy's autoencoder."""
    pixels = clips.transpose(1, 2) * 2 - 1
    vae = policy.pipe.vae
    if clips.shape[1] == 1:
        copies = vae.decode(vae.encode(pixels[:, :, 0]).latent_dist.mode()).sample[:, :, None]
    else:
        copies = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return (copies / 2 + 0.5).clamp(0, 1).transpose(1, 2)


@pytest.mark.parametrize("name", POLICIES)
def test_they_are_small_and_have_a_card(name: str) -> None:
    files = [path for path in (ASSETS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    card = (ASSETS / name / "README.md").read_text()
    assert f"# {name}" in card
    assert "scripts/pretrain_tiny_" in card
    assert json.loads((ASSETS / name / "model_index.json").read_text())["_class_name"] in card


def test_the_image_policy_draws_but_does_not_always_what_it_is_told() -> None:
    config, policy = loaded("data.split=heldout")
    images, batch = drawn(config, policy, steps=12)
    right = checker.judge(images[:, 0].float() / 255, batch.texts).hard.double().mean()
    assert 0.35 < right < 0.75  # 52 samples of a policy that has 0.59


def test_the_image_autoencoder_keeps_what_the_checker_reads() -> None:
    _, policy = loaded()
    texts = language.prompts(kinds=STILL)[::2]
    copies = reconstructed(policy, draw.render(texts, torch.Generator().manual_seed(0))[:, None])
    assert checker.judge(copies[:, 0], texts).hard.double().mean() >= 0.95


def test_the_video_policy_shows_things_that_move_as_told() -> None:
    config, policy = loaded("experiment=tiny_video", "data.split=heldout", "data.kinds=[direction]")
    clips, batch = drawn(config, policy, steps=12)
    verdict = motion.judge_media(clips, batch.texts)
    both = verdict.right["shape"] * verdict.right["direction"]
    assert 0.15 < both.mean() < 0.9  # 24 samples


def test_the_video_policy_goes_on_from_a_first_frame() -> None:
    config, policy = loaded("experiment=tiny_i2v", "data.split=heldout", "data.kinds=[direction]")
    clips, batch = drawn(config, policy, steps=12)
    assert motion.judge_media(clips, batch.texts, batch.frames).right["first_frame"].mean() >= 0.95


def test_the_video_autoencoder_keeps_what_the_checker_reads() -> None:
    _, policy = loaded("experiment=tiny_video")
    texts = language.prompts(clips=True)[::6]
    copies = reconstructed(policy, draw.render_clips(texts, torch.Generator().manual_seed(0)))
    assert motion.judge_clips(copies, texts).hard.double().mean() >= 0.9


@pytest.mark.parametrize(
    "words", [["model=tiny_image_defect"], ["experiment=tiny_video", "model=tiny_video_defect"]]
)
def test_the_defective_bases_spoil_a_small_part_of_most_samples(words: list[str]) -> None:
    config, policy = loaded(*words, "data.split=heldout")
    samples, _ = drawn(config, policy, steps=12)
    spoiled = defects.mask(samples.float() / 255).flatten(1).mean(1)
    bad = spoiled > 0.005
    assert 0.4 < bad.double().mean() < 0.95  # of about 55 samples of policies that spoil 60 to 80 %
    assert 0.01 < spoiled[bad].mean() < 0.05
