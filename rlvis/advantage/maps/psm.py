"""The perceptual map of ViPO (arXiv 2511.18719): uint8 frames of N samples to M >= 0 on the latent grid.

A pure function of the frames: no reward, no randomness, no state. One backbone call a micro-batch of frames,
and everything after it batched over all of them on the same device. A sample whose features are not finite
is an error, or gets ones and is counted; it never touches its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlvis.advantage.maps import opening, pca, spatial
from rlvis.advantage.maps.backbone import Features
from rlvis.schema import Aggregation, MapConfig, MapNorm, OnMapError, PcaFit


class Allocation(NamedTuple):
    """map [N, F, H, W] float32, and failed [N]: rows that got ones because their features were not finite."""

    map: Tensor
    failed: Tensor


@dataclass(frozen=True)
class PerceptualMap:
    """The Perceptual Structuring Module with its settings."""

    features: Features
    config: MapConfig
    device: torch.device

    def __call__(self, media: Tensor, free: Tensor, latent_shape: tuple[int, ...]) -> Tensor:
        """Maps float32 [N, F, H, W], on the device: `allocate` without the count of failures."""
        return self.allocate(media, free, latent_shape).map

    @torch.no_grad()
    def allocate(self, media: Tensor, free: Tensor, latent_shape: tuple[int, ...]) -> Allocation:
        """Maps of N samples.

        media: uint8 [N, M, 3, Y, X]. free: [F, H, W], positions the policy moves; the others are left out of
        the last normalisation and get 0. latent_shape: (C, F, H, W).
        Returns M in [0, 1], or of mean 1 over the free positions with map_norm=mean1.
        Raises ValueError for other shapes, for frames smaller than the backbone's grid, and with
        on_map_error=raise where features are not finite.
        """
        _check(media, free, latent_shape)
        _, frames, *size = latent_shape
        free = free.to(self.device)
        if not media.shape[0]:
            none = torch.zeros(0, dtype=torch.bool, device=self.device)
            return Allocation(torch.zeros(0, frames, *size, device=self.device), none)
        maps, failed = [], []
        for clips in self._clips(media):
            still = frames == clips.shape[1] == 1  # else the last min-max is the one over the clip
            values, bad = self._per_frame(clips, free if still else None, (size[0], size[1]))
            maps.append(spatial.in_time(values, frames, self.config.temporal_sigma, free))
            failed.append(bad)
        whole, bad = torch.cat(maps), torch.cat(failed)
        if self.config.on_map_error is OnMapError["raise"] and bool(bad.any()):
            raise ValueError(
                f"the backbone's features of {int(bad.sum())} of {len(bad)} samples are not finite (row "
                f"{int(bad.nonzero()[0])} first), so they have no map; type "
                "advantage.map.backbone_dtype=float32, or "
                "advantage.map.on_map_error=uniform to train such samples without a map"
            )
        whole = torch.where(bad[:, None, None, None], (free > 0).to(whole), whole)
        if self.config.map_norm is MapNorm.mean1:
            whole = spatial.mean_one(whole, free)
        return Allocation(whole, bad)

    def _clips(self, media: Tensor) -> Iterator[Tensor]:
        """Whole clips, as many as one micro-batch of frames holds (at least one)."""
        at_once = max(1, self.config.batch // media.shape[1])
        for start in range(0, media.shape[0], at_once):
            yield media[start : start + at_once].to(self.device, non_blocking=True)

    def _per_frame(self, clips: Tensor, free: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Maps [n, M, H, W] of clips [n, M, 3, Y, X], and which clips failed [n]."""
        n, m = clips.shape[:2]
        tokens, grid, bad = self.tokens(clips)
        structure = self.structure(tokens, grid)
        smoothed = spatial.smooth(structure.view(n * m, *grid), self.config.sigma)
        return spatial.to_latent(smoothed, size, free).view(n, m, *size), bad

    @torch.no_grad()
    def tokens(self, clips: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
        """Tokens [n, M, gh * gw, D] of uint8 clips [n, M, 3, Y, X], and (gh, gw).

        The third: which clips failed [n]; their tokens are 0.
        """
        n, m = clips.shape[:2]
        pieces = [
            self.features(part.float() / 255.0)
            for part in torch.split(clips.flatten(0, 1), self.config.batch)
        ]
        tokens, grid = torch.cat([piece[0] for piece in pieces]), pieces[0][1]
        # One pass, and no second tensor of that size: the norm of a frame with NaN or infinity is not finite.
        bad = ~torch.isfinite(torch.linalg.vector_norm(tokens, dim=(1, 2))).view(n, m).all(1)
        if bool(bad.any()):
            tokens = torch.where(bad.repeat_interleave(m)[:, None, None], 0.0, tokens)
        return tokens.view(n, m, *tokens.shape[1:]), grid, bad

    def structure(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """S in [0, 1] before smoothing, [n, M, gh * gw], from tokens [n, M, gh * gw, D]."""
        n, m, length, _ = tokens.shape
        joint = self.config.pca_fit is PcaFit.clip
        components = self.components(tokens)
        scores = pca.fix_signs(components, self.config.pca_sign, m if joint else 1, grid)
        return spatial.aggregate(scores, components.explained, self.config.aggregation).view(n, m, length)

    def components(self, tokens: Tensor) -> pca.Components:
        """Of each clip, or of each frame, as configured; tokens [n, M, gh * gw, D]."""
        n, m, length, width = tokens.shape
        joint = self.config.pca_fit is PcaFit.clip
        items = tokens.reshape((n, m * length, width) if joint else (n * m, length, width))
        # The mean of raw components needs all of them, the first one only itself.
        k = 1 if self.config.aggregation is Aggregation.first_pc else self.config.components
        return pca.components(items, k)


def build(config: MapConfig, device: torch.device, height: int, width: int) -> PerceptualMap:
    """The map of a configuration with its backbone loaded, which fits frames of height x width pixels."""
    return PerceptualMap(opening.build(config, device, height, width), config, device)


def _check(media: Tensor, free: Tensor, latent_shape: tuple[int, ...]) -> None:
    if media.dtype != torch.uint8 or media.ndim != 5 or media.shape[2] != 3 or media.shape[1] < 1:
        raise ValueError(
            f"media: wanted uint8 [N, M, 3, Y, X] with M > 0, got {media.dtype} {list(media.shape)}"
        )
    if len(latent_shape) != 4 or free.shape != tuple(latent_shape[1:]):
        raise ValueError(
            f"free: wanted [F, H, W] of the latent (C, F, H, W) = {tuple(latent_shape)}, got "
            f"{list(free.shape)}"
        )
    if free.numel() == 1:
        raise ValueError(
            f"the policy's latent {list(latent_shape)} has one position and no grid, so a map has nothing to "
            "spread; type advantage.map.source=none"
        )
    if not bool((free > 0).any()):
        raise ValueError(
            "free: no position of the latent is free, so there is nothing to spread an advantage over"
        )
