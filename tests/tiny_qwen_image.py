"""Tiny random Qwen-Image pipelines of the real diffusers classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests import tiny


def qwen_image(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Save a QwenImagePipeline: 4 latent channels, autoencoder factor 4, so sides are multiples of 8 pixels.

    changes: of the denoiser's configuration.
    """
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    with tiny.seeded(seed):
        options: dict[str, Any] = {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": tiny.WIDTH,
            "axes_dims_rope": (4, 6, 6),
        }
        transformer = QwenImageTransformer2DModel(**(options | changes))
        vae = AutoencoderKLQwenImage(**tiny.CAUSAL, temperal_downsample=[False, True])
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=16,
            max_image_seq_len=512,
            shift_terminal=0.02,
        )
        pipe = QwenImagePipeline(
            transformer=tiny.rough(transformer),
            scheduler=scheduler,
            vae=tiny.rough(vae),
            text_encoder=vision_language_model(),
            tokenizer=tiny.word_tokenizer(),
        )
    pipe.save_pretrained(folder)
    return folder


def vision_language_model() -> torch.nn.Module:
    """A Qwen2.5-VL as wide as the joint attention; its eyes are not used."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        **tiny.language_model(tiny.WIDTH, 2, max_position_embeddings=2048),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": tiny.WIDTH,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
