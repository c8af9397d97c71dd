"""The doctor's look at the seams of a tiled autoencoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvis.doctor.probe import Probe
from rlvis.doctor.seams import seams
from rlvis.findings import Severity
from tests.doctor import cases

SIZE = 64


@pytest.fixture
def tiled(sd3_folder: Path) -> Probe:
    """A probe whose autoencoder decodes in tiles, with pictures to be set."""
    model = {"height": SIZE, "width": SIZE, "vae_tiling": True}
    return cases.probed(cases.make(sd3_folder, model=model))


def test_smooth_pictures_are_in_order_and_stepped_ones_are_not(tiled: Probe) -> None:
    [finding] = seams(tiled)
    stride = int(finding.numbers["stride_down"])
    assert 0 < stride < SIZE
    ramp = torch.linspace(0, 200, SIZE).to(torch.uint8).expand(1, 1, 3, SIZE, SIZE).clone()
    [smooth] = seams(replace(tiled, media=ramp))
    assert smooth.severity is Severity.ok
    step = ramp.clone()
    step[..., stride:, :] += 40
    [rough] = seams(replace(tiled, media=step))
    assert rough.severity is Severity.warning
    assert float(rough.numbers["seam_energy"]) > 2
    assert "model.vae_tiling=false" in rough.type


def test_whole_decoding_has_no_seams_to_look_for(sd3_folder: Path) -> None:
    assert seams(cases.probed(cases.make(sd3_folder))) == []
