"""Scorers whose time is what a benchmark wants: a tower of real size, and one that only waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.reward.contract import Scores


class Tower:
    """A vision tower of ViT-B/32's size (86 M), random weights: its scores mean nothing, its time does."""

    def __init__(self, layers: int = 12) -> None:
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(
            768, 12, 3072, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.patches = torch.nn.Conv2d(3, 768, 32, 32)
        self.body = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, 1, 3, Y, X], at 224 x 224."""
        pixels = F.interpolate(images[:, 0].float() / 255, size=(224, 224), mode="bilinear", antialias=True)
        value = self.body(self.patches(pixels).flatten(2).transpose(1, 2)).mean((1, 2)).double()
        return Scores(value, torch.isfinite(value))


class Waiting:
    """A scorer on another device: it takes its time, and none of this processor's."""

    def __init__(self, each: float) -> None:
        self.each = each

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Mean levels [B], after `each` seconds a sample."""
        time.sleep(self.each * len(images))
        value = images.double().mean((1, 2, 3, 4))
        return Scores(value, torch.ones(len(images), dtype=torch.bool))
