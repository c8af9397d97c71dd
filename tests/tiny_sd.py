"""Tiny random Stable Diffusion pipelines, 1.x and XL, of the real diffusers classes, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tests import tiny

# What the released checkpoints say: 1.5 names PNDM, XL names Euler.
BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def sd15(folder: Path, *, scheduler: Any = None, checker: bool = False, seed: int = 0) -> Path:
    """Save a StableDiffusionPipeline: 4 latent channels, autoencoder factor 4.

    scheduler: in place of PNDM as released. checker: with a safety checker (its folder in the index).
    """
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    with tiny.seeded(seed):
        pipe = StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(),
            tokenizer=tiny.clip_tokenizer(),
            unet=unet(tiny.WIDTH // 2),
            scheduler=scheduler or PNDMScheduler(**BETAS, skip_prk_steps=True),
            safety_checker=safety_checker() if checker else None,
            feature_extractor=feature_extractor() if checker else None,
            requires_safety_checker=checker,
        )
    pipe.save_pretrained(folder)
    return folder


def sdxl(folder: Path, *, scheduler: Any = None, zeros: bool = True, seed: int = 0) -> Path:
    """Save a StableDiffusionXLPipeline, as `sd15`. zeros: an empty negative prompt is zeros, as released."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    with tiny.seeded(seed):
        text_width = tiny.WIDTH // 2
        pipe = StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(),
            text_encoder_2=tiny.clip_encoder(),
            tokenizer=tiny.clip_tokenizer(),
            tokenizer_2=tiny.clip_tokenizer(),
            unet=unet(
                2 * text_width,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + text_width,
                transformer_layers_per_block=(1, 2),
            ),
            scheduler=scheduler or EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
            force_zeros_for_empty_prompt=zeros,
            add_watermarker=False,
        )
    pipe.save_pretrained(folder)
    return folder


def unet(text_width: int, **more: Any) -> nn.Module:
    """Two levels, the second without attention at the ends, as the released models have one."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": text_width,
    }
    return tiny.rough(UNet2DConditionModel(**(settings | more)))


def autoencoder() -> nn.Module:
    """Factor 4, 4 latent channels, the scaling of 1.5."""
    return tiny.rough(tiny.autoencoder(scaling_factor=0.18215))


def text_encoder() -> nn.Module:
    """A CLIP text model without projection."""
    from transformers import CLIPTextModel

    with_projection: Any = tiny.clip_encoder()
    return CLIPTextModel(with_projection.config).eval()


def safety_checker() -> nn.Module:
    """The checker that released 1.x checkpoints bring."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4, "projection_dim": 8}
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))


def feature_extractor() -> Any:
    """What the safety checker's pictures go through."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
