"""Tiny random Wan pipelines that start from a frame or have two experts; see tests/tiny.py for plain ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tests import tiny

IMAGE_WIDTH = 16
BOUNDARY = 0.875  # at shift 3 and 3 steps, time 1000 and 856 stand on either side


def reading(folder: Path, *, encoder: bool = True, seed: int = 0, **parts: Any) -> Path:
    """Save a WanImageToVideoPipeline whose denoiser takes a mask and the frame's latents (4 + 4 + 4).

    encoder: with a CLIP image encoder and attention to it (Wan2.1-I2V); without as Wan2.2-I2V.
    """
    from diffusers import WanImageToVideoPipeline

    with tiny.seeded(seed + 100):
        images = {"image_encoder": image_encoder(), "image_processor": image_processor()} if encoder else {}
        more = {"transformer": denoiser(12, encoder)} | images
    return tiny.wan(folder, seed=seed, kind=WanImageToVideoPipeline, **(more | parts))


def experts(folder: Path, *, frame: bool = False, seed: int = 0, boundary: float = BOUNDARY) -> Path:
    """Save a pipeline with two denoisers (Wan2.2-A14B); frame: image to video, without an image encoder."""
    with tiny.seeded(seed + 200):
        pair = {"transformer": denoiser(12 if frame else 4), "transformer_2": denoiser(12 if frame else 4)}
    if frame:
        return reading(folder, encoder=False, seed=seed, boundary_ratio=boundary, **pair)
    return tiny.wan(folder, seed=seed, boundary_ratio=boundary, **pair)


def denoiser(channels: int, image: bool = False) -> nn.Module:
    """A WanTransformer3DModel of 2 layers; image: with attention to a picture."""
    from diffusers import WanTransformer3DModel

    sizes = {"image_dim": IMAGE_WIDTH, "added_kv_proj_dim": 24} if image else {}
    denoiser: nn.Module = tiny.rough(WanTransformer3DModel(**{**tiny.WAN, "in_channels": channels, **sizes}))
    return denoiser


def image_encoder() -> nn.Module:
    """A CLIP vision model for 16 x 16 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=IMAGE_WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return CLIPVisionModel(config).eval()


def image_processor() -> Any:
    """CLIP's processor for 16 x 16 pixels."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
