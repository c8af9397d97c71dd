"""FLUX's tokens: round trips, and the order that stock diffusers packs in."""

from __future__ import annotations

import pytest
import torch

from rlvis.models.packing import pack, unpack


@pytest.mark.parametrize(("h", "w"), [(2, 2), (4, 6), (10, 4)])
def test_round_trips(h: int, w: int) -> None:
    latents = torch.randn(3, 16, 1, h, w)
    tokens = pack(latents)
    assert tokens.shape == (3, h * w // 4, 64)
    assert torch.equal(unpack(tokens, h, w), latents)
    assert torch.equal(pack(unpack(tokens, h, w)), tokens)


def test_the_order_is_that_of_diffusers() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 1, 4, 6)
    theirs = FluxPipeline._pack_latents(latents[:, :, 0], 2, 16, 4, 6)
    assert torch.equal(pack(latents), theirs)
    assert torch.equal(unpack(theirs, 4, 6)[:, :, 0], FluxPipeline._unpack_latents(theirs, 32, 48, 8))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="even h and w"):
        pack(torch.zeros(1, 16, 1, 3, 4))
    with pytest.raises(ValueError, match="even h and w"):
        pack(torch.zeros(1, 16, 2, 4, 4))
    with pytest.raises(ValueError, match=r"wanted tokens \[B, 4 \* 6 / 4, 4 C\]"):
        unpack(torch.zeros(1, 5, 64), 4, 6)
