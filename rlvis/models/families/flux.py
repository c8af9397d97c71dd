"""FLUX.1 (Black Forest Labs): CLIP and T5 text, tokens of 2 x 2 latents, rectified flow, embedded guidance.

FLUX.1-dev is distilled from a guided model and takes the scale as an input (`model.guidance`); schnell takes
none. `model.cfg` above 1 is true classifier-free guidance beside it, with a second branch. The noise levels
depend on the resolution (dev) or on the scheduler's fixed shift (schnell).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models import comfy, decoding, packing
from rlvis.models.lora import JOINT_ATTENTION
from rlvis.models.packed import PackedImages


class Flux(PackedImages):
    """`FluxPipeline`; its embeds are prompt_embeds [P,L,D] and pooled_prompt_embeds [P,E]."""

    pipeline_name = "FluxPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    takes_guidance = True
    usual_guidance = 3.5
    tokens_of_text = (512, 512)  # of T5
    unused = ("image_encoder", "feature_extractor")  # of the IP adapters
    # Flow-GRPO's for FLUX: the attention of both streams and their feed-forward layers.
    lora_targets = (
        *JOINT_ATTENTION,
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )
    # ComfyUI has a table of diffusers' names for this family.
    comfy_names = comfy.Names(
        comfy.same(
            *(f"transformer_blocks.*.{layer}" for layer in lora_targets),
            *(f"single_transformer_blocks.*.attn.{layer}" for layer in ("to_k", "to_q", "to_v")),
            "single_transformer_blocks.*.proj_mlp",
            "single_transformer_blocks.*.proj_out",
        ),
        prefix="transformer.",
    )

    def check_denoiser(self) -> None:
        """Refuse model.guidance where the denoiser takes none."""
        self.check_guidance(" (as FLUX.1-schnell)")

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

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,1,H,W] at 1000 sigma; the denoiser sees tokens and sigma."""
        rows, _, _, h, w = x.shape
        config: Any = self.module.config
        text = embeds["prompt_embeds"]
        scale = torch.full((rows,), self.guidance, device=x.device) if config.guidance_embeds else None
        velocity = module(
            hidden_states=packing.pack(x),
            timestep=time.to(x.dtype) / 1000,  # rounded before it is divided, as stock
            guidance=scale,
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


def positions(rows: int, columns: int) -> Tensor:
    """Coordinates [rows * columns, 3] of the image tokens for the rotary embedding: (0, row, column)."""
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    return torch.nn.functional.pad(grid.reshape(-1, 2), (1, 0)).float()


ENTRY = Flux
