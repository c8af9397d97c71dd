"""FLUX.2 as a policy against the stock pipelines, on tiny random weights of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig
from tests import kit, sides, tiny_flux2
from tests.family import holds, policy_of


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.2-dev: Mistral, an embedded guidance scale."""
    return tiny_flux2.flux2(tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.2-klein-base: Qwen3, classifier-free guidance."""
    return tiny_flux2.flux2(tmp_path_factory.mktemp("klein"), klein=True)


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("flux2", folder, **({"max_tokens": 16} | changes))


def test_klein_does_what_the_stock_pipeline_does(klein: Path) -> None:
    assert holds(kit.check("flux2", klein, max_tokens=16, negative_prompt=""))


def test_dev_samples_as_the_stock_pipeline(dev: Path) -> None:
    p = policy(dev, guidance=2.5)
    assert p.call_settings()["guidance_scale"] == 2.5
    assert policy(dev).call_settings()["guidance_scale"] == 4.0
    assert holds(list(kit._sampling(p, "")))


@pytest.mark.slow
def test_dev_does_what_the_stock_pipeline_does(dev: Path) -> None:
    assert holds(kit.check("flux2", dev, max_tokens=16, negative_prompt="", cfg=1.0))


@pytest.mark.parametrize("which", ["dev", "klein"])
def test_embeddings_are_the_stock_ones_and_truncation_is_counted(
    which: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    p = policy(folder)
    embeds, truncated = p.encode(sides.TEXTS)
    assert truncated == 0
    pipe = sides.open_stock(p)
    for i, text in enumerate(sides.TEXTS):
        theirs, _ = pipe.encode_prompt(text, max_sequence_length=16)
        assert torch.equal(embeds["prompt_embeds"][i : i + 1], theirs)
    assert policy(folder, max_tokens=8).encode(["a red circle and a blue square", "a ring"])[1] == 1


def test_noise_levels_follow_resolution_and_number_of_steps(klein: Path) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    p = policy(klein, height=64, width=32)
    for steps in (4, 20):
        p.pipe.scheduler.set_timesteps(
            sigmas=np.linspace(1, 1 / steps, steps), mu=compute_empirical_mu(8 * 4, steps)
        )
        assert torch.equal(p.schedule(steps).sigma, p.pipe.scheduler.sigmas)
        assert torch.equal(p.schedule(steps).time, p.pipe.scheduler.timesteps)


@pytest.mark.parametrize(
    ("which", "changes", "message"),
    [
        ("dev", {"cfg": 2.0}, r"cfg=2.0.*no negative branch; type model.cfg=1, and model.guidance=4"),
        ("klein", {"guidance": 4.0}, r"guidance=4.0.*is told no guidance scale.*type model.guidance=null"),
        ("klein", {"cfg": 2.0, "negative_prompt": "a ring"}, r"takes an empty one only; type model.neg"),
        ("dev", {"height": 20}, r"height=20.*multiples of 8 pixels \(autoencoder 4 x patch 2\).*16 or 24"),
        ("dev", {"frames": 5}, r"frames=5: model.family=flux2 makes images; type model.frames=1"),
        ("dev", {"max_tokens": 513}, r"max_tokens=513.*takes 1 to 512"),
        ("dev", {"lora": LoraConfig(4, 4, ["attn2.to_q"])}, r"\['attn2.to_q'\] match no layer of Flux2Trans"),
        ("dev", {"family": "flux"}, r"is a Flux2Pipeline, but this model.family drives a FluxPipeline"),
    ],
)
def test_errors_say_what_to_do(
    which: str, changes: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    changes = dict(changes)
    family = changes.pop("family", "flux2")
    with pytest.raises(ValueError, match=message):
        policy_of(family, request.getfixturevalue(which), **changes)


def test_guidance_of_a_distilled_klein_is_refused(tmp_path: Path) -> None:
    folder = tiny_flux2.flux2(tmp_path, klein=True, distilled=True)
    assert policy(folder).call_settings()["guidance_scale"] == 1.0
    with pytest.raises(ValueError, match=r"is distilled and samples without guidance; type model.cfg=1"):
        policy(folder, cfg=2.0)
