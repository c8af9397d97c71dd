"""HunyuanVideo as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.models.policy import Policy
from rlvis.schema import Condition, LoraConfig
from tests import kit, sides, tiny_video
from tests.family import holds, policy_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_video.hunyuan_video(tmp_path_factory.mktemp("hunyuan"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("hunyuan_video", folder, **({"width": 32, "max_tokens": 16, "frames": 5} | changes))


def test_it_does_what_the_stock_pipeline_does(folder: Path) -> None:
    assert holds(kit.check("hunyuan_video", folder, frames=5, max_tokens=16, height=16, guidance=4.0))


def test_embeddings_are_the_stock_ones_without_the_template(folder: Path) -> None:
    p = policy(folder)
    embeds, truncated = p.encode(sides.TEXTS)
    assert truncated == 0
    pipe = sides.open_stock(p)
    for i, text in enumerate(sides.TEXTS):
        theirs = pipe.encode_prompt(text, max_sequence_length=16)
        names = ("prompt_embeds", "pooled_prompt_embeds", "mask")
        assert all(torch.equal(embeds[n][i : i + 1], value) for n, value in zip(names, theirs, strict=True))
    assert not torch.equal(embeds["prompt_embeds"][0], embeds["prompt_embeds"][1])
    assert p.encode(["a red circle and a blue square " * 30])[1] == 1


def test_the_guidance_is_told_to_the_denoiser(folder: Path) -> None:
    scales: list[float] = []
    for changes in ({}, {"guidance": 2.5}):
        p = policy(folder, **changes)
        p.module.register_forward_pre_hook(
            lambda module, args, kwargs: scales.extend(kwargs["guidance"].tolist()), with_kwargs=True
        )
        sides.one_step(p, p.encode(sides.TEXTS)[0])
    assert scales == [6000.0] * 3 + [2500.0] * 3
    assert "guidance_scale=6.0" in str(policy(folder).call_settings()).replace("': ", "=")


def test_the_grid_is_the_stock_one(folder: Path) -> None:
    p = policy(folder)
    line = [1 - i / 7 for i in range(7)]
    p.pipe.scheduler.set_timesteps(sigmas=line)
    assert torch.allclose(p.schedule(7).sigma, p.pipe.scheduler.sigmas, atol=1e-6)
    assert torch.allclose(p.schedule(2, grid="linear").sigma, torch.tensor([1, 7 / 8, 0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 40}, r"width=40.*multiples of 16 pixels.*the nearest is 32 or 48"),
        ({"frames": 6}, r"frames=6.*4 k \+ 1 frames; the nearest is 5 or 9"),
        ({"max_tokens": 300}, "takes 1 to 256 tokens"),
        ({"condition": Condition.first_frame}, "starts from noise alone"),
        ({"lora": LoraConfig(4, 4, ["attn9.to_q"])}, r"\['attn9.to_q'\].*to_k"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(folder, **changes)


def test_another_family_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a HunyuanVideoPipeline, but this model.family drives a Wan"):
        policy_of("wan", folder)
