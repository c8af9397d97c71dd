"""Z-Image as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig
from tests import kit, sides, tiny_z_image
from tests.family import holds, policy_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_z_image.z_image(tmp_path_factory.mktemp("z_image"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("z_image", folder, **({"max_tokens": 32} | changes))


def test_it_does_what_the_stock_pipeline_does(folder: Path) -> None:
    assert holds(kit.check("z_image", folder, max_tokens=32))


def test_guidance_is_counted_from_one(folder: Path) -> None:
    p = policy(folder, cfg=3.0)
    assert p.call_settings()["guidance_scale"] == 2.0
    draw = torch.Generator().manual_seed(1)
    negative, out = (torch.randn(2, 4, 1, 4, 6, generator=draw) for _ in range(2))
    assert torch.allclose(p.guide(negative, out, torch.ones(2)), negative + 3 * (out - negative), atol=1e-5)
    assert policy(folder).call_settings()["guidance_scale"] == 0.0


def test_embeddings_are_the_stock_ones_with_padding_behind(folder: Path) -> None:
    p = policy(folder)
    embeds, truncated = p.encode(sides.TEXTS)
    assert truncated == 0
    pipe = sides.open_stock(p)
    for i, text in enumerate(sides.TEXTS):
        (prompt,), _ = pipe.encode_prompt(text, max_sequence_length=32)
        assert torch.equal(embeds["prompt_embeds"][i, : len(prompt)], prompt)
        assert not embeds["prompt_embeds"][i, len(prompt) :].any()
        assert embeds["prompt_embeds_mask"][i].tolist() == [int(j < len(prompt)) for j in range(32)]


def test_texts_of_very_different_lengths(folder: Path) -> None:
    """One text fills a block of 32 tokens, the other two: the picture's position moves with its text."""
    p = policy(folder, max_tokens=64)
    long = "a red circle and " * 9
    embeds, truncated = p.encode([long, "a ring"])
    assert truncated == 0
    assert embeds["prompt_embeds_mask"].sum(1).tolist() == [39, 5]
    x = sides.noise(p, 2)
    time = torch.full((2,), 700.0)
    with torch.no_grad():
        both = p.predict(p.module, x, time, embeds)
        for i in range(2):
            row = {name: value[i : i + 1] for name, value in embeds.items()}
            alone = p.predict(p.module, x[i : i + 1], time[:1], row)
            assert (alone[0] - both[i]).abs().max() <= 2e-5  # padded to each other, so other shapes


def test_truncated_prompts_are_counted(folder: Path) -> None:
    assert policy(folder, max_tokens=8).encode(["a red circle and a blue square", "a ring"])[1] == 1


def test_noise_levels_are_shifted_by_the_scheduler(folder: Path) -> None:
    p = policy(folder)
    grid = p.schedule(5)
    p.pipe.scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / 5, 5).tolist(), mu=0.7)
    assert torch.equal(grid.sigma, p.pipe.scheduler.sigmas)
    assert torch.equal(grid.time, p.pipe.scheduler.timesteps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"height": 20},
            r"height=20.*multiples of 8 pixels \(autoencoder 4 x patch 2\) from 8 to 128.*16 or 24",
        ),
        ({"width": 136}, r"width=136.*the nearest is 128"),
        ({"frames": 5}, r"frames=5: model.family=z_image makes images; type model.frames=1"),
        ({"max_tokens": 97}, r"max_tokens=97.*takes 1 to 96"),
        ({"lora": LoraConfig(4, 4, ["attn2.to_q"])}, r"\['attn2.to_q'\] match no layer of ZImageTransformer"),
        ({"family": "flux"}, r"is a ZImagePipeline, but this model.family drives a FluxPipeline"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    family = changes.pop("family", "z_image")
    with pytest.raises(ValueError, match=message):
        policy_of(family, folder, **changes)
