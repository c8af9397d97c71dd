"""ViPO's map in the plainest way that the paper's text allows, frame by frame.

A PIL picture, one backbone call, a full SVD in numpy, scipy's Gaussian, a loop over pixels in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from torch import Tensor

from rlvis.advantage.maps import backbone


def plain_tokens(model: backbone.Backbone, frame: Tensor) -> np.ndarray:
    """Tokens [L, D] of one frame uint8 [3, Y, X], by way of PIL."""
    gh, gw = model.grid(*frame.shape[1:])
    picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
    picture = picture.resize((gw * model.patch, gh * model.patch), Image.Resampling.BILINEAR)
    values = np.asarray(picture, dtype=np.float32) / 255.0
    mean, std = (t.flatten().numpy() for t in (model.mean, model.std))
    pixels = torch.from_numpy(((values - mean) / std).transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        tokens: np.ndarray = model.module(pixel_values=pixels).last_hidden_state[0, 1:].numpy()
    return tokens


def plain_map(
    tokens: Sequence[np.ndarray], grid: tuple[int, int], latent: tuple[int, int, int]
) -> np.ndarray:
    """Map [F, H, W] of one sample from each frame's tokens [L, D]."""
    frames = np.stack([_plain_frame(one, grid, latent[1:]) for one in tokens])
    if len(tokens) == latent[0] == 1:
        return frames
    if len(tokens) != latent[0]:
        stacked = torch.from_numpy(frames)[None, None]
        frames = F.interpolate(stacked, size=latent, mode="trilinear", align_corners=False)[0, 0].numpy()
    for y in range(latent[1]):
        for x in range(latent[2]):
            frames[:, y, x] = gaussian_filter1d(frames[:, y, x], 0.3)
    return _minmax(frames)


def _plain_frame(tokens: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    centred = tokens - tokens.mean(0)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    structure = np.zeros(len(tokens), dtype=np.float32)
    for j in range(3):
        loading = right[j] * np.sign(right[j][np.abs(right[j]).argmax()])
        score = centred @ loading
        structure += values[j] ** 2 / (values**2).sum() * (score.max() - score) / (score.max() - score.min())
    smoothed = _minmax(gaussian_filter(structure.clip(0, 1).reshape(grid), 1.0))
    picture = torch.from_numpy(smoothed)[None, None]
    resized = F.interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)
    return _minmax(resized[0, 0].numpy())


def _minmax(x: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (x - x.min()) / (x.max() - x.min() + 1e-8)
    return scaled
