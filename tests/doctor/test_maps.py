"""Maps in the doctor: the world's pictures pass; noise, flat frames and few patches are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.data.world import draw, language
from rlvis.doctor import maps
from rlvis.doctor.probe import Probe
from tests.doctor import cases

MAP = S.MapConfig(source=S.MapSource.psm, backbone="tiny")


@pytest.fixture(scope="module")
def probe(sd3_folder: Path) -> Probe:
    advantage = {"map": MAP, "ratio_scope": S.RatioScope.position}
    return cases.probed(cases.make(sd3_folder, advantage=advantage))


def world(generator: torch.Generator) -> Tensor:
    return draw.render(language.prompts(kinds=("single", "relation"))[:16], generator)


def noise(generator: torch.Generator) -> Tensor:
    return torch.rand(16, 3, 32, 32, generator=generator)


def faint(generator: torch.Generator) -> Tensor:
    return (0.5 + 0.02 * torch.randn(16, 3, 32, 32, generator=generator)).clamp(0, 1)


def flat(generator: torch.Generator) -> Tensor:
    return torch.rand(16, 3, 1, 1, generator=generator).expand(-1, -1, 32, 32)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("frames", "severity"), [(world, "ok"), (noise, "warning"), (faint, "warning"), (flat, "warning")]
)
def test_noise_and_flat_frames_are_told_from_pictures(
    probe: Probe, frames: Any, severity: str, seed: int
) -> None:
    pictures = (frames(torch.Generator().manual_seed(seed)) * 255).round().to(torch.uint8)[:, None]
    found = maps.maps(replace(probe, media=pictures))
    assert cases.one(found, "map size").severity == "ok"
    finding = cases.one(found, "map")
    assert finding.severity == severity
    assert ("looks like noise" in finding.why) is (severity == "warning")
    assert (float(finding.numbers["mirror"]) > 0.97) is (severity == "ok")


def test_maps_that_are_the_same_for_every_sample_are_told() -> None:
    numbers: dict[str, Any] = {"explained": 0.9, "contrast": 0.5, "mirror": 1.0, "alike": 0.99}
    assert "every sample has the same map" in maps.structure(numbers, 3).why
    assert maps.structure(numbers | {"alike": 0.6}, 3).severity == "ok"


def test_few_patches_are_told_with_sizes_that_help(probe: Probe) -> None:
    config = replace(probe.parts.config.model, height=20, width=32)
    parts = replace(probe.parts, config=replace(probe.parts.config, model=config))
    small = replace(probe, parts=parts, media=probe.media[..., :20, :])
    finding = cases.one(maps.maps(small), "map size")
    assert finding.severity == "warning"
    assert "20 x 32 pixels give the backbone 5 x 8 patches" in finding.what
    assert finding.type == "advantage.map.enlarge=2, or model.height=32 model.width=32 and more"


def test_without_maps_there_is_nothing_to_say(probe: Probe) -> None:
    assert maps.maps(replace(probe, parts=replace(probe.parts, psm=None))) == []
