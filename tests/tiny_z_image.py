"""Tiny random Z-Image pipelines of the real diffusers classes."""

from __future__ import annotations

from pathlib import Path

import torch

from tests import tiny

TEMPLATE = "{% for m in messages %}a {{ m['content'] }} and{% endfor %}"


def z_image(folder: Path, *, seed: int = 0) -> Path:
    """Save a ZImagePipeline: 4 latent channels, autoencoder factor 4; sides to 128 pixels, 94 text tokens."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3Model

    with tiny.seeded(seed):
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=48,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=tiny.WIDTH,
            axes_dims=[8, 8, 8],
            axes_lens=[98, 16, 16],
        )
        with torch.no_grad():  # left unset by the class
            transformer.x_pad_token.normal_()
            transformer.cap_pad_token.normal_()
        vae = tiny.autoencoder(scaling_factor=0.3611, shift_factor=0.1159, **tiny.UNQUANTISED)
        sizes = tiny.language_model(tiny.WIDTH, 3, head_dim=16, max_position_embeddings=512)
        encoder = Qwen3Model(Qwen3Config(**sizes))
        tokenizer = tiny.word_tokenizer()
        tokenizer.chat_template = TEMPLATE
        pipe = ZImagePipeline(
            transformer=tiny.rough(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.rough(vae),
            text_encoder=encoder.eval(),
            tokenizer=tokenizer,
        )
    pipe.save_pretrained(folder)
    return folder
