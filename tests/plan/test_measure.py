"""What is counted on shapes against what is counted in a real run on the CPU, of tiny models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.plan import measure
from rlvis.plan.count import size
from rlvis.plan.measure import Shapes
from rlvis.schema import Condition, Config, Dtype, LoraConfig
from tests import setting, tiny

NEAR = 0.1  # of the real bytes: norms of a fused kind keep a little less than their parts
MODELS: dict[str, dict[str, Any]] = {
    "sd3": {"height": 64, "width": 64, "cfg": 4.0},
    "wan": {"family": "wan", "height": 32, "width": 48, "frames": 9, "max_tokens": 16, "fps": 8.0},
}


def config(folder: Path, family: str, lora: bool = False, **model: Any) -> Config:
    model = {**MODELS[family], "lora": LoraConfig(4, 4) if lora else None, **model}
    return setting.config(folder, model=model, train={"micro_batch": 2})


@cache
def both(folder: Path, family: str, lora: bool) -> tuple[Shapes, Policy, dict[str, torch.Tensor]]:
    """Shapes, the real policy, and real conditions of 2 rows."""
    settings = config(folder, family, lora)
    real = setting.policy(settings)
    embeds, _ = real.encode(["a red circle", "a blue square"])
    return measure.shapes(settings), real, embeds


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["sd3", "wan"])
def test_a_trained_micro_batch(
    sd3_folder: Path, wan_folder: Path, family: str, lora: bool, checkpointing: bool
) -> None:
    folder = {"sd3": sd3_folder, "wan": wan_folder}[family]
    settings = config(folder, family, lora, gradient_checkpointing=checkpointing)
    shapes, real, embeds = both(folder, family, lora)
    planned = measure.measure(shapes, settings)
    measure.set_checkpointing(real, checkpointing)
    counted = measure.training(real, embeds, settings, "cpu")
    assert planned.train.peak == pytest.approx(counted.peak, rel=NEAR)
    assert planned.train.kept == pytest.approx(counted.kept, rel=NEAR)
    assert planned.train.flops == pytest.approx(counted.flops, rel=0.01)
    assert planned.sample.peak < planned.train.peak
    assert 2.9 * planned.sample.flops < planned.train.flops * (1.0 if not lora else 1.5)


def test_the_reference_forward_counts(sd3_folder: Path) -> None:
    shapes, real, embeds = both(sd3_folder, "sd3", True)
    settings = config(sd3_folder, "sd3", lora=True)
    settings = replace(settings, advantage=replace(settings.advantage, kl_beta=0.1))
    planned = measure.measure(shapes, settings)
    measure.set_checkpointing(real, False)
    counted = measure.training(real, embeds, settings, "cpu")
    assert planned.train.peak == pytest.approx(counted.peak, rel=NEAR)
    assert planned.train.flops == pytest.approx(counted.flops, rel=0.01)
    assert counted.flops > measure.training(real, embeds, config(sd3_folder, "sd3", True), "cpu").flops * 1.2


@pytest.mark.parametrize("family", ["sd3", "wan"])
def test_a_decoded_chunk(sd3_folder: Path, wan_folder: Path, family: str) -> None:
    shapes, real, _ = both({"sd3": sd3_folder, "wan": wan_folder}[family], family, False)
    latents = torch.zeros(real.decode_rows, *real.latent_shape)
    with measure.counting(real, "cpu", latents) as counted, torch.no_grad():
        (real.decode_chunk(latents).float() * 255).round().to(torch.uint8)
    assert shapes.decode.peak == pytest.approx(counted.peak, rel=NEAR)
    assert shapes.decode.flops == counted.flops


@pytest.mark.parametrize("dtype", [Dtype.bfloat16, Dtype.float16])
def test_components_are_as_large_as_when_loaded(tmp_path: Path, dtype: Dtype) -> None:
    """Some modules stay in float32 whatever was asked for; no weight is there to be read."""
    for family, folder in (("sd3", tiny.sd3(tmp_path / "sd3", t5=True)), ("wan", tiny.wan(tmp_path / "wan"))):
        settings = config(folder, family, dtype=dtype)
        loaded = setting.policy(settings)
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()
        shapes = load_policy(settings.model, "meta")
        for name, part in loaded.pipe.components.items():
            if isinstance(part, nn.Module):
                planned = shapes.pipe.components[name]
                assert {p.device.type for p in planned.parameters()} == {"meta"}
                assert size(planned.parameters()) == size(part.parameters()), (family, name)


def test_conditions_have_the_shapes_of_the_longest_prompt(sd3_folder: Path, wan_folder: Path) -> None:
    shapes, real, embeds = both(sd3_folder, "sd3", False)
    assert {k: v.shape[1:] for k, v in shapes.embeds.items()} == {k: v.shape[1:] for k, v in embeds.items()}
    assert shapes.encode.flops > 0
    assert real.device == torch.device("cpu")
    first = config(wan_folder, "wan", condition=Condition.first_frame)
    conditioned = measure.shapes(first)
    held = conditioned.embeds["condition"].shape
    assert held == (1, conditioned.policy.latent_shape[0], 1, *conditioned.policy.latent_shape[2:])
    assert measure.measure(conditioned, first).train.peak > 0


def test_nothing_is_kept_as_an_encoded_prompt(tmp_path: Path, sd3_folder: Path) -> None:
    settings = config(sd3_folder, "sd3", embed_cache=str(tmp_path / "cache"))
    shapes = measure.shapes(settings)
    assert not any(bool(value.any()) for value in shapes.embeds.values())
    assert not (tmp_path / "cache").exists()


def test_a_missing_configuration_is_named(tmp_path: Path, sd3_folder: Path) -> None:
    shutil.copytree(sd3_folder, tmp_path / "sd3")
    (tmp_path / "sd3" / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match="not a complete diffusers pipeline"):
        measure.shapes(config(tmp_path / "sd3", "sd3"))
