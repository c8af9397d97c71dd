"""LTX-Video (arXiv 2501.00103): T5 text, an autoencoder of 32 x 32 x 8 pixels a latent, rectified flow, CFG.

States stay [B,C,F,H,W] everywhere and are packed for the denoiser alone, one latent a token. The noise
levels depend on the number of tokens. A decoder that takes a noise level is given 0, as in the stock call;
one that draws noise itself is refused, since the same latents would then give other pixels each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.policy import Policy
from rlvis.records import Schedule

TOKENS = 128  # of T5, by default
MOST_TOKENS = 512
STOCK_UNIT = 32  # the stock pipeline takes no other multiples of pixels


class Ltx(Policy):
    """`LTXPipeline`; its embeds are prompt_embeds [P,L,D] and mask [P,L] (1 for text)."""

    pipeline_name = "LTXPipeline"
    fps = 25.0  # of the stock call; positions in time count seconds
    # The attention of all blocks, to themselves and to the text.
    lora_targets = ("to_k", "to_out.0", "to_q", "to_v")
    comfy_names = comfy.Names(comfy.same(*comfy.text_attention("transformer_blocks.*")))

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, F, H, W); sides are multiples of the autoencoder's factor (and 32), frames are 8 k + 1."""
        config, vae = self.pipe.transformer.config, self.pipe.vae.config
        if config.patch_size != 1 or config.patch_size_t != 1 or any(vae.decoder_inject_noise):
            raise ValueError(
                f"model.path={self.config.path}: patch_size={config.patch_size}, patch_size_t="
                f"{config.patch_size_t}, decoder_inject_noise={list(vae.decoder_inject_noise)}; wanted "
                "patches of 1 and a decoder that draws no noise; type model.path=Lightricks/LTX-Video"
            )
        self.tokens = sizes.check_tokens(self.config, TOKENS, MOST_TOKENS)
        factor, every = self.pipe.vae_spatial_compression_ratio, self.pipe.vae_temporal_compression_ratio
        sizes.check_sides(self.config, max(factor, STOCK_UNIT), f"autoencoder {factor}")
        sizes.check_frames(self.config, every, 1)
        return config.in_channels, *sizes.latent_grid(self.config, factor, every)

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] and mask [1,L], by the stock `encode_prompt`."""
        prompt, mask, _, _ = self.pipe.encode_prompt(
            prompt=[text],
            do_classifier_free_guidance=False,
            max_sequence_length=self.tokens,
            device=self.device,
        )
        return {"prompt_embeds": prompt, "mask": mask.long()}

    def truncated(self, text: str) -> bool:
        """Whether the text has more tokens than T5 is given."""
        return len(self.pipe.tokenizer(text, truncation=False).input_ids) > self.tokens

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """A line from 1 to 1/steps, shifted by the number of latents, stretched to the scheduler's end."""
        _, f, h, w = self.latent_shape
        return grids.line_schedule(self.pipe, self.config.path, f * h * w, steps, shift, grid)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,F,H,W] at 1000 sigma; the denoiser sees tokens."""
        _, _, f, h, w = x.shape
        pipe = self.pipe
        space = pipe.vae_spatial_compression_ratio
        velocity: Tensor = module(
            hidden_states=self.stock_latents(x),
            encoder_hidden_states=embeds["prompt_embeds"],
            timestep=time,
            encoder_attention_mask=embeds["mask"],
            num_frames=f,
            height=h,
            width=w,
            rope_interpolation_scale=(pipe.vae_temporal_compression_ratio / self.frame_rate, space, space),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(x.shape)

    def guide(self, negative: Tensor, out: Tensor, time: Tensor) -> Tensor:
        """In float32, as stock."""
        return super().guide(negative.float(), out.float(), time)

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,F,H,W] -> [B,M,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        vae = self.pipe.vae
        mean, std = (m.view(1, -1, 1, 1, 1).to(latents) for m in (vae.latents_mean, vae.latents_std))
        scaled = latents * std / vae.config.scaling_factor + mean
        level = torch.zeros(len(latents), device=latents.device) if vae.config.timestep_conditioning else None
        return decoding.clip(self.pipe, vae.decode(scaled, level, return_dict=False)[0])

    def call_settings(self) -> dict[str, Any]:
        """The rate is an input of the denoiser."""
        return super().call_settings() | {"frame_rate": self.frame_rate}

    def stock_latents(self, x: Tensor) -> Tensor:
        """Tokens [B, F H W, C]."""
        return x.flatten(2).transpose(1, 2)


ENTRY = Ltx
