"""CogVideoX as a policy against the stock pipeline, on tiny random weights of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig
from tests import kit, sides, tiny_video
from tests.family import holds, policy_of

SIZE = {"height": 16, "width": 24, "frames": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5b: rotary positions."""
    return tiny_video.cogvideox(tmp_path_factory.mktemp("cogvideox"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("cogvideox", folder, **(SIZE | changes))


def test_it_does_what_the_stock_pipeline_does(folder: Path) -> None:
    assert holds(kit.check("cogvideox", folder, **SIZE))


@pytest.mark.slow
def test_sines_and_the_stock_size(tmp_path: Path) -> None:
    sines = tiny_video.cogvideox(tmp_path, rotary=False)
    assert holds(kit.check("cogvideox", sines, height=32, width=48, frames=9))


def test_the_grid_is_ddim_s_from_no_signal_to_no_noise(folder: Path) -> None:
    p = policy(folder)
    grid = p.schedule(9)
    p.ddim.set_timesteps(9)  # type: ignore[attr-defined]
    assert grid.time.tolist() == p.ddim.timesteps.tolist()  # type: ignore[attr-defined]
    assert grid.time[0] == 998
    assert (float(grid.alpha[0]), float(grid.sigma[0])) == (0, 1)
    assert (float(grid.alpha[-1]), float(grid.sigma[-1])) == (1, 0)
    with pytest.raises(ValueError, match=r"no shift; type sampler.grid=model sampler.shift=null"):
        p.schedule(9, shift=3.0)
    with pytest.raises(ValueError, match="10 steps do not divide 999"):
        p.schedule(10)


def test_prompts_have_the_checkpoint_s_length(folder: Path) -> None:
    p = policy(folder)
    embeds, truncated = p.encode([*sides.TEXTS, "a red circle " * 20])
    assert embeds["prompt_embeds"].shape[1] == 16
    assert truncated == 1
    theirs, _ = sides.open_stock(p).encode_prompt(
        sides.TEXTS[0], do_classifier_free_guidance=False, max_sequence_length=16
    )
    assert torch.equal(embeds["prompt_embeds"][:1], theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 20}, r"width=20.*multiples of 8 pixels.*the nearest is 16 or 24"),
        ({"frames": 7}, r"frames=7.*the nearest is 5 or 9"),
        ({"max_tokens": 8}, "has 16 tokens; type model.max_tokens=null"),
        ({"lora": LoraConfig(4, 4, ["attn9.to_q"])}, r"\['attn9.to_q'\].*attn1.to_q"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(folder, **changes)


def test_other_schedulers_and_versions_are_refused(folder: Path, tmp_path: Path) -> None:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    leading = CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="leading")
    with pytest.raises(ValueError, match="wanted v_prediction and trailing"):
        policy(tiny_video.cogvideox(tmp_path / "leading", scheduler=leading))
    config = dict(sides.open_stock(policy(folder)).transformer.config)
    later = CogVideoXTransformer3DModel.from_config(config | {"patch_size_t": 2, "patch_bias": False})
    with pytest.raises(ValueError, match=r"patch_size_t=2, as CogVideoX 1.5"):
        policy(tiny_video.cogvideox(tmp_path / "later", transformer=later))
