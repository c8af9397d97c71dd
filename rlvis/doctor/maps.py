"""Maps of the probe's samples: whether there are patches enough, and whether maps follow what is in a frame.

The map of a mirrored frame is the mirror of its map where both follow things. Where they follow noise, or
what position embeddings add to a frame without content, they differ: on the shapes world the median
correlation is 0.99 and more from 4 x 4 patches to 16 x 16, for frames of noise at most 0.7, for frames of
one colour at most 0.8. What the components explain and the contrast of maps are told, but do not tell these
apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.advantage.maps import spatial
from rlvis.advantage.maps.backbone import Backbone
from rlvis.advantage.maps.grid import ENOUGH, helpful
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.doctor.diagnosis import ok, warning
from rlvis.doctor.probe import Probe
from rlvis.findings import Finding, Number
from rlvis.runtime import dist

MIRROR = (
    0.85  # median correlation of a map with that of the mirrored frames, below which it is taken for noise
)
ALIKE = 0.97  # of maps of different samples, above which they follow no frame
MOST = 16  # samples of a rank that are looked at


def maps(probe: Probe) -> list[Finding]:
    """How many patches maps are made of, and whether they look like noise; nothing without maps.

    A collective.
    """
    psm = probe.parts.psm
    if psm is None:
        return []
    clips = probe.media[:MOST].to(psm.device)
    tokens, grid, _ = psm.tokens(clips)
    map_ = _smoothed(psm, tokens, grid)
    mirrored = _smoothed(psm, psm.tokens(clips.flip(-1))[0], grid).flip(-1)
    own = torch.stack(
        [
            psm.components(tokens).explained.sum(1).view(len(clips), -1).mean(1),
            map_.flatten(1).std(1) / map_.flatten(1).mean(1),
            correlation(map_, mirrored),
            correlation(map_, map_.roll(1, 0)) if len(clips) > 1 else torch.zeros(len(clips)).to(map_),
        ],
        dim=1,
    )
    explained, contrast, mirror, alike = dist.all_gather_rows(own).median(0).values.tolist()
    numbers = {
        "explained": explained,
        "contrast": contrast,
        "mirror": mirror,
        "alike": alike,
    }
    return [size(probe, grid), structure(numbers, psm.config.components)]


def _smoothed(psm: PerceptualMap, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps on the patch grid [n, M, gh, gw], before they are resized to the latent's."""
    n, m = tokens.shape[:2]
    return spatial.smooth(psm.structure(tokens, grid).view(n, m, *grid), psm.config.sigma)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of each row of [n, ...] with that of the other; 0 where one is flat."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    size = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    cosine: Tensor = (a * b).sum(1) / size.clamp(min=1e-6)
    return cosine


def size(probe: Probe, grid: tuple[int, int]) -> Finding:
    """Patches along the shorter side."""
    assert probe.parts.psm is not None
    features, model = probe.parts.psm.features, probe.parts.config.model
    enlarge = probe.parts.psm.config.enlarge
    what = f"frames of {model.height} x {model.width} pixels give the backbone {grid[0]} x {grid[1]} patches"
    numbers: dict[str, Number] = {"high": grid[0], "wide": grid[1]}
    if min(grid) >= ENOUGH:
        return ok("map size", what, numbers)
    kind = "advantage.map.backbone_kwargs with smaller cells, or a larger advantage.map.enlarge"
    if isinstance(features, Backbone):
        kind = helpful(model.height, model.width, features.patch, enlarge)
        kind = "advantage.map.backbone=dinov2" if features.fixed else kind
    why = f"maps of fewer than {ENOUGH} x {ENOUGH} patches miss much of what is in a frame"
    return warning("map size", what, numbers, why=why, type=kind)


def structure(numbers: Mapping[str, float], components: int) -> Finding:
    """Whether maps follow what is in a frame: explained, contrast, mirror, alike."""
    what = (
        f"{components} components explain {numbers['explained']:.0%} of the tokens' variance, the maps' std "
        f"is {numbers['contrast']:.2f} of their mean; they agree {numbers['mirror']:.2f} with those of "
        f"mirrored frames and {numbers['alike']:.2f} with those of other samples (median correlations)"
    )
    if numbers["mirror"] < MIRROR:
        why = f"this looks like noise: a map that follows things agrees at least {MIRROR} with its mirror"
    elif numbers["alike"] > ALIKE:
        why = (
            "every sample has the same map, so it follows the backbone's positions and not what is in a frame"
        )
    else:
        return ok("map", what, numbers)
    kind = "advantage.map.enlarge=2, another advantage.map.backbone, or advantage.map.source=none"
    return warning("map", what, numbers, why=why, type=kind)
