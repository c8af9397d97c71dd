"""Tiny random pipelines of video families beside Wan; see tests/tiny.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests import tiny


def hunyuan_video(folder: Path, *, seed: int = 0, **parts: Any) -> Path:
    """Save a HunyuanVideoPipeline: 4 latent channels, autoencoder factor 8 in space, 4 in time, patch 2."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import LlamaConfig, LlamaModel

    with tiny.seeded(seed):
        transformer = HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=tiny.WIDTH,
            pooled_projection_dim=tiny.WIDTH // 2,
            rope_axes_dim=(4, 4, 4),
        )
        vae = AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        )
        pieces = {
            "transformer": tiny.rough(transformer),
            "vae": tiny.rough(vae),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
            "text_encoder": LlamaModel(
                LlamaConfig(**tiny.language_model(tiny.WIDTH, 3), pad_token_id=0)
            ).eval(),
            "tokenizer": tiny.word_tokenizer(),
            "text_encoder_2": tiny.plain_clip_encoder(num_hidden_layers=1, max_position_embeddings=77),
            "tokenizer_2": tiny.clip_tokenizer(),
        }
        HunyuanVideoPipeline(**(pieces | parts)).save_pretrained(folder)
    return folder


def ltx(folder: Path, *, seed: int = 0, told_level: bool = False, **parts: Any) -> Path:
    """Save a LTXPipeline: 8 latent channels, autoencoder factor 8 in space and 4 in time.

    told_level: a decoder that takes a noise level (LTX-Video 0.9.1 and later).
    """
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    with tiny.seeded(seed):
        transformer = LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=2,
            caption_channels=tiny.WIDTH,
        )
        vae = AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            patch_size=2,
            timestep_conditioning=told_level,
        )
        vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 8))
        vae.latents_std.copy_(torch.linspace(0.5, 1.5, 8))
        pieces = {
            "transformer": tiny.rough(transformer),
            "vae": tiny.rough(vae),
            "scheduler": FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.95,
                max_shift=2.05,
                base_image_seq_len=64,
                max_image_seq_len=512,
                shift_terminal=0.1,
            ),
            "text_encoder": tiny.t5_encoder(),
            "tokenizer": tiny.word_tokenizer(),
        }
        LTXPipeline(**(pieces | parts)).save_pretrained(folder)
    return folder


def cogvideox(folder: Path, *, seed: int = 0, rotary: bool = True, **parts: Any) -> Path:
    """Save a CogVideoXPipeline: 4 latent channels, autoencoder factor 4 in space and time, patch 2.

    rotary: positions as in 5b; else sines, as in 2b. 16 tokens; 999 training steps, which 3 and 9 divide.
    """
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    with tiny.seeded(seed):
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=tiny.WIDTH,
            num_layers=2,
            sample_width=12,
            sample_height=8,
            sample_frames=5,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=16,
            use_rotary_positional_embeddings=rotary,
        )
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        )
        pieces = {
            "transformer": tiny.rough(transformer),
            "vae": tiny.rough(vae),
            "scheduler": CogVideoXDDIMScheduler(
                num_train_timesteps=999,
                prediction_type="v_prediction",
                timestep_spacing="trailing",
                rescale_betas_zero_snr=True,
                snr_shift_scale=1.0,
                clip_sample=False,
            ),
            "text_encoder": tiny.t5_encoder(),
            "tokenizer": tiny.word_tokenizer(),
        }
        CogVideoXPipeline(**(pieces | parts)).save_pretrained(folder)
    return folder
