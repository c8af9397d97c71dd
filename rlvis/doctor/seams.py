"""Seams of a tiled autoencoder in the probe's pictures: a policy can learn to use them, or to hide them."""

from __future__ import annotations

import torch

from rlvis.doctor.diagnosis import ok, warning
from rlvis.doctor.probe import Probe
from rlvis.findings import Finding
from rlvis.models import decoding
from rlvis.observe.seams import seam_energy
from rlvis.runtime import dist

MOST = 1.25  # roughness across the borders of tiles over that elsewhere; 1 without seams


def seams(probe: Probe) -> list[Finding]:
    """How much rougher the probe's samples are across borders of tiles; nothing to say without tiling.

    A collective.
    """
    policy = probe.parts.policy
    if not policy.config.vae_tiling:
        return []
    down, across = decoding.tile_strides(policy.pipe.vae)
    high, wide = probe.media.shape[3:]
    if down >= high and across >= wide:  # tiles in time alone
        return []
    energy = dist.all_gather_rows(seam_energy(probe.media, (down, across))[:, None])
    median = energy.median().item()
    numbers = {
        "seam_energy": median,
        "highest": energy.max().item(),
        "stride_down": down,
        "stride_across": across,
    }
    what = f"{len(energy)} samples are {median:.2f} times as rough across the borders of tiles as elsewhere"
    if median <= MOST or not torch.isfinite(energy).all():
        return [ok("seams", what, numbers)]
    why = f"more than {MOST} times: rewards see the seams, and a policy can learn to hide or to exploit them"
    return [
        warning("seams", what, numbers, why=why, type="model.vae_tiling=false, or model.vae_slicing=true")
    ]
