"""Qwen-Image as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig
from tests import kit, sides, tiny_qwen_image
from tests.family import holds, policy_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen_image.qwen_image(tmp_path_factory.mktemp("qwen"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("qwen_image", folder, **({"max_tokens": 24} | changes))


def test_it_does_what_the_stock_pipeline_does(folder: Path) -> None:
    assert holds(kit.check("qwen_image", folder, max_tokens=24))


def test_embeddings_are_the_stock_ones_with_padding_behind(folder: Path) -> None:
    p = policy(folder)
    embeds, truncated = p.encode(sides.TEXTS)
    assert truncated == 0
    pipe = sides.open_stock(p)
    for i, text in enumerate(sides.TEXTS):
        prompt, mask = pipe.encode_prompt(text)
        long = prompt.shape[1]
        assert mask is None  # nothing is padded where a prompt is alone
        assert torch.equal(embeds["prompt_embeds"][i, :long], prompt[0])
        assert not embeds["prompt_embeds"][i, long:].any()
        assert embeds["prompt_embeds_mask"][i].tolist() == [1] * long + [0] * (24 - long)


def test_padding_changes_no_picture(folder: Path) -> None:
    short, long = policy(folder, max_tokens=20), policy(folder, max_tokens=60)
    outs = [sides.one_step(p, p.encode(sides.TEXTS)[0]) for p in (short, long)]
    assert (outs[0] - outs[1]).abs().max() <= 1e-5
    assert (outs[0] - sides.one_step(short, short.encode(sides.TEXTS[::-1])[0])).abs().max() > 1e-3


def test_truncated_prompts_are_counted(folder: Path) -> None:
    p = policy(folder, max_tokens=14)
    embeds, truncated = p.encode(["a red circle and a blue square", "a ring"])
    assert truncated == 1
    assert embeds["prompt_embeds_mask"].sum(1).tolist() == [14, 12]


def test_noise_levels_end_at_the_scheduler_s_terminal_value(folder: Path) -> None:
    p = policy(folder, height=64, width=64)
    grid = p.schedule(5)
    line = np.linspace(1, 1 / 5, 5)
    p.pipe.scheduler.set_timesteps(sigmas=line, mu=0.5 + 0.4 * (64 - 16) / 496)
    assert torch.equal(grid.sigma, p.pipe.scheduler.sigmas)
    assert torch.equal(grid.time, p.pipe.scheduler.timesteps)
    assert float(grid.sigma[-2]) == pytest.approx(0.02, abs=1e-6)
    assert p.schedule(1).sigma.tolist() == [1, 0]


def test_guidance_keeps_the_length_of_every_token(folder: Path) -> None:
    p = policy(folder, cfg=4.0)
    draw = torch.Generator().manual_seed(1)
    negative, out = (torch.randn(2, 4, 1, 4, 6, generator=draw) for _ in range(2))
    guided = p.guide(negative, out, torch.ones(2))
    assert torch.allclose(p.stock_latents(guided).norm(dim=-1), p.stock_latents(out).norm(dim=-1))
    plain = negative + 4 * (out - negative)
    assert torch.nn.functional.cosine_similarity(
        p.stock_latents(guided), p.stock_latents(plain), dim=-1
    ).min() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20}, r"height=20.*multiples of 8 pixels \(autoencoder 4 x packing 2\).*16 or 24"),
        ({"frames": 5}, r"frames=5: model.family=qwen_image makes images; type model.frames=1"),
        ({"max_tokens": 1025}, r"max_tokens=1025.*takes 1 to 1024"),
        ({"guidance": 3.5}, r"not told a guidance scale; type model.guidance=null"),
        ({"lora": LoraConfig(4, 4, ["attn2.to_q"])}, r"\['attn2.to_q'\] match no layer of QwenImageTrans"),
        ({"family": "flux"}, r"is a QwenImagePipeline, but this model.family drives a FluxPipeline"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    family = changes.pop("family", "qwen_image")
    with pytest.raises(ValueError, match=message):
        policy_of(family, folder, **changes)


def test_a_denoiser_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"zero_cond_t=True.*type model.path=Qwen/Qwen-Image"):
        policy(tiny_qwen_image.qwen_image(tmp_path, zero_cond_t=True))
