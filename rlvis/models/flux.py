"""FLUX.1 (Black Forest Labs): CLIP and T5 text, tokens of 2 x 2 latents, rectified flow, embedded guidance.

FLUX.1-dev is distilled from a guided model and is told its guidance scale (`model.guidance`); schnell is told
none. `model.cfg` above 1 is true classifier-free guidance beside it, with a second branch. States stay
[B,C,1,H,W] everywhere and are packed for the denoiser alone, so maps and log-probs have a position per
latent. The noise levels depend on the resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models import decoding, grids, packing, sizes
from rlvis.models.lora import JOINT_ATTENTION
from rlvis.models.policy import Policy
from rlvis.records import Schedule

TOKENS = 512  # of T5, at most and by default
GUIDANCE = 3.5  # of the stock pipeline


class Flux(Policy):
    """`FluxPipeline`; its embeds are prompt_embeds [P,L,D] and pooled_prompt_embeds [P,E]."""

    pipeline_name = "FluxPipeline"
    takes_guidance = True
    unused = ("image_encoder", "feature_extractor")  # of the IP adapters
    # Flow-GRPO's for FLUX: the attention of both streams and their feed-forward layers.
    lora_targets = (
        *JOINT_ATTENTION,
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, 1, H, W); sides are multiples of autoencoder factor x 2, since four latents make a token."""
        config: Any = self.module.config
        factor = self.pipe.vae_scale_factor
        sizes.check_images(self.config)
        sizes.check_sides(self.config, 2 * factor, f"autoencoder {factor} x packing 2")
        self.tokens = sizes.check_tokens(self.config, TOKENS, TOKENS)
        if self.config.guidance is not None and not config.guidance_embeds:
            raise ValueError(
                f"model.guidance={self.config.guidance}: model.path={self.config.path} is told no guidance "
                "scale (as FLUX.1-schnell); type model.guidance=null"
            )
        return config.in_channels // 4, 1, self.config.height // factor, self.config.width // factor

    @property
    def guidance(self) -> float:
        """The guidance scale that the denoiser is told, where it is told one."""
        return GUIDANCE if self.config.guidance is None else self.config.guidance

    def shared_tokens(self) -> sizes.Tokens:
        """Four latents make a token; the text runs beside them."""
        _, _, height, width = self.latent_shape
        return sizes.Tokens((1, height // 2, width // 2), self.tokens)

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] of T5 and pooled_prompt_embeds [1,E] of CLIP, by stock `encode_prompt`."""
        prompt, pooled, _ = self.pipe.encode_prompt(
            prompt=[text], prompt_2=None, device=self.device, max_sequence_length=self.tokens
        )
        return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}

    def truncated(self, text: str) -> bool:
        """Whether the text is too long for T5, which reads further than CLIP (unless max_tokens is short)."""
        clip = len(self.pipe.tokenizer(text, truncation=False).input_ids) > self.pipe.tokenizer_max_length
        return clip and len(self.pipe.tokenizer_2(text, truncation=False).input_ids) > self.tokens

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """A line from 1 to 1/steps, shifted by the resolution (dev) or by the scheduler's own (schnell)."""
        _, _, h, w = self.latent_shape
        return grids.line_schedule(self.pipe, self.config.path, h * w // 4, steps, shift, grid)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,1,H,W] at 1000 sigma; the denoiser sees tokens and sigma."""
        rows, _, _, h, w = x.shape
        config: Any = self.module.config
        text = embeds["prompt_embeds"]
        told = torch.full((rows,), self.guidance, device=x.device) if config.guidance_embeds else None
        velocity = module(
            hidden_states=packing.pack(x),
            timestep=time.to(x.dtype) / 1000,  # rounded before it is divided, as stock
            guidance=told,
            pooled_projections=embeds["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=positions(h // 2, w // 2).to(x.device, x.dtype),
            return_dict=False,
        )[0]
        return packing.unpack(velocity, h, w)

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,1,H,W] -> [B,1,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        return decoding.picture(self.pipe, latents)

    def call_settings(self) -> dict[str, Any]:
        """Stock calls the embedded scale guidance_scale, and classifier-free guidance true_cfg_scale."""
        settings = super().call_settings()
        del settings["guidance_scale"]
        config: Any = self.module.config
        if config.guidance_embeds:
            settings["guidance_scale"] = self.guidance
        if self.guided:  # only a negative prompt, even an empty one, makes stock run the second branch
            settings |= {"true_cfg_scale": self.config.cfg, "negative_prompt": self.config.negative_prompt}
        return settings

    def stock_latents(self, x: Tensor) -> Tensor:
        """Tokens [B, H W / 4, 4 C]."""
        return packing.pack(x)


def positions(rows: int, columns: int) -> Tensor:
    """Coordinates [rows * columns, 3] of the image tokens for the rotary embedding: (0, row, column)."""
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    return torch.nn.functional.pad(grid.reshape(-1, 2), (1, 0)).float()
