"""LTX-Video as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig
from tests import kit, sides, tiny_video
from tests.family import holds, policy_of

SIZE = {"height": 32, "width": 64, "frames": 5, "max_tokens": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_video.ltx(tmp_path_factory.mktemp("ltx"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("ltx", folder, **(SIZE | changes))


def test_it_does_what_the_stock_pipeline_does(folder: Path) -> None:
    assert holds(kit.check("ltx", folder, **SIZE, fps=20))


@pytest.mark.slow
def test_a_decoder_that_is_told_a_noise_level(tmp_path: Path) -> None:
    assert holds(kit.check("ltx", tiny_video.ltx(tmp_path, told_level=True), **(SIZE | {"frames": 9})))


def test_latents_are_tokens_only_for_the_denoiser(folder: Path) -> None:
    p = policy(folder)
    x = sides.noise(p, 2)
    assert x.shape == (2, 8, 2, 4, 8)
    packed = p.stock_latents(x)
    assert torch.equal(packed, p.pipe._pack_latents(x))
    embeds, truncated = p.encode(sides.TEXTS[:2])
    assert truncated == 0
    assert embeds["mask"].sum(1).tolist() == [4, 4]
    assert p.encode(["a red circle " * 20])[1] == 1
    # What stands behind the text has no say.
    with torch.no_grad():
        first = p.predict(p.module, x, torch.full((2,), 500.0), embeds)
        embeds["prompt_embeds"][:, 4:] = 9.0
        again = p.predict(p.module, x, torch.full((2,), 500.0), embeds)
    assert torch.equal(first, again)


def test_the_grid_depends_on_the_number_of_latents(folder: Path) -> None:
    p = policy(folder)
    mu = 0.95 + (2.05 - 0.95) * (64 - 64) / (512 - 64)  # 2 x 4 x 8 latents
    p.pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5), mu=mu)
    assert torch.equal(p.schedule(5).sigma, p.pipe.scheduler.sigmas)
    assert torch.equal(p.schedule(5).time, p.pipe.scheduler.timesteps)
    assert float(p.schedule(5).sigma[-2]) == pytest.approx(0.1, abs=1e-6)
    assert not torch.equal(policy(folder, frames=9).schedule(5).sigma, p.schedule(5).sigma)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 40}, r"width=40.*multiples of 32 pixels.*the nearest is 32 or 64"),
        ({"frames": 7}, r"frames=7.*the nearest is 5 or 9"),
        ({"guidance": 3.0}, "is not told a guidance scale"),
        ({"lora": LoraConfig(4, 4, ["attn9.to_q"])}, r"\['attn9.to_q'\].*attn1.to_q"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(folder, **changes)


def test_a_decoder_that_draws_noise_is_refused(folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKLLTXVideo

    config = sides.open_stock(policy(folder)).vae.config
    noisy = AutoencoderKLLTXVideo.from_config(config, decoder_inject_noise=(True,) * 5)
    with pytest.raises(ValueError, match=r"decoder_inject_noise=\[True.*a decoder that draws no noise"):
        policy(tiny_video.ltx(tmp_path, vae=noisy))
