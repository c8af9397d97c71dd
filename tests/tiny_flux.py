"""Tiny random FLUX pipelines of the real diffusers classes."""

from __future__ import annotations

from pathlib import Path

from tests import tiny


def flux(folder: Path, *, dev: bool = True, seed: int = 0) -> Path:
    """Save a FluxPipeline: 4 latent channels, autoencoder factor 4, so sides are multiples of 8 pixels.

    dev: takes a guidance scale, noise levels by the resolution (FLUX.1-dev); otherwise as FLUX.1-schnell.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    with tiny.seeded(seed):
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.WIDTH,
            pooled_projection_dim=tiny.WIDTH // 2,
            guidance_embeds=dev,
            axes_dims_rope=(4, 6, 6),
        )
        vae = tiny.autoencoder(scaling_factor=0.3611, shift_factor=0.1159, **tiny.UNQUANTISED)
        scheduler = (
            FlowMatchEulerDiscreteScheduler(
                shift=3.0,
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=16,  # so that two tiny sizes differ as two real ones do
                max_image_seq_len=256,
            )
            if dev
            else FlowMatchEulerDiscreteScheduler(shift=1.0)
        )
        pipe = FluxPipeline(
            transformer=tiny.rough(transformer),
            scheduler=scheduler,
            vae=tiny.rough(vae),
            text_encoder=tiny.plain_clip_encoder(),
            tokenizer=tiny.clip_tokenizer(),
            text_encoder_2=tiny.t5_encoder(),
            tokenizer_2=tiny.word_tokenizer(),
        )
    pipe.save_pretrained(folder)
    return folder
