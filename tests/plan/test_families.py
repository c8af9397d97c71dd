"""Every family can be planned from configuration files alone, as it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvis.models import load
from rlvis.plan import measure
from rlvis.schema import LoraConfig, SamplerConfig
from tests import (
    setting,
    tiny,
    tiny_flux,
    tiny_flux2,
    tiny_qwen_image,
    tiny_sd,
    tiny_video,
    tiny_wan,
    tiny_z_image,
)

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "cogvideox": tiny_video.cogvideox,
    "flux": tiny_flux.flux,
    "flux2": tiny_flux2.flux2,
    "hunyuan_video": tiny_video.hunyuan_video,
    "ltx": tiny_video.ltx,
    "qwen_image": tiny_qwen_image.qwen_image,
    "sd15": tiny_sd.sd15,
    "sd3": tiny.sd3,
    "sdxl": tiny_sd.sdxl,
    "wan": tiny_wan.experts,
    "z_image": tiny_z_image.z_image,
}
CLIPS = {"cogvideox": 9, "hunyuan_video": 9, "ltx": 9, "wan": 9}


def test_no_family_is_forgotten() -> None:
    assert set(BUILDERS) == set(load.FAMILIES.names())


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_a_family_is_planned_as_it_runs(tmp_path: Path, family: str) -> None:
    """Bytes within 15 %: what the fused norms of a CPU save weighs more in tiny models."""
    folder = BUILDERS[family](tmp_path / family)
    model: dict[str, Any] = {"family": family, "height": 64, "width": 64, "frames": CLIPS.get(family, 1)}
    settings = setting.config(folder, model={**model, "max_tokens": None}, train={"micro_batch": 2})
    settings = replace(settings, model=replace(settings.model, lora=LoraConfig(4, 4)))
    if load.family(family).variance_preserving:
        settings = replace(settings, sampler=SamplerConfig(kernel="ddim", eta=1.0, steps=3))
    real = setting.policy(settings)
    embeds, _ = real.encode([measure.LONG, measure.LONG])
    counted = measure.training(real, embeds, settings, "cpu")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    shapes = measure.shapes(settings)
    assert {k: v.shape[1:] for k, v in shapes.embeds.items()} == {k: v.shape[1:] for k, v in embeds.items()}
    planned = measure.measure(shapes, settings)
    assert planned.train.peak == pytest.approx(counted.peak, rel=0.15)
    assert planned.train.flops == pytest.approx(counted.flops, rel=0.01)
    assert planned.decode.peak > 0
