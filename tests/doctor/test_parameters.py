"""Checksums of parameters: any bit and any exchange changes them; what is not finite is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlvis.doctor.parameters import checksum, parameters
from tests.doctor import cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_checksum_sees_a_bit_and_an_exchange(dtype: torch.dtype) -> None:
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    start = checksum(values)
    assert torch.equal(start, checksum(values.clone()))
    bit, swapped = values.clone(), values.clone()
    bit.view(torch.uint8)[0, 0] ^= 1
    swapped[0, [3, 4]] = values[0, [4, 3]]
    assert not torch.equal(start, checksum(bit))
    assert not torch.equal(start, checksum(swapped))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvis.doctor import parameters as module

    values = torch.randn(1000)
    whole = checksum(values)
    monkeypatch.setattr(module, "CHUNK", 64)
    assert torch.equal(whole, checksum(values))


def test_a_parameter_that_is_not_finite_is_named(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder)
    assert parameters(parts)[0].severity == "ok"
    name, weight = parts.policy.trainable()[5]
    with torch.no_grad():
        weight.view(-1)[0] = torch.nan
    (finding,) = parameters(parts)
    assert finding.severity == "failure"
    assert name in finding.what
