"""HunyuanVideo (arXiv 2412.03603): Llama and CLIP text, a causal video autoencoder, embedded guidance.

The prompt stands in a template that asks for a description of the video, whose tokens are cut off again. The
denoiser is distilled and takes its guidance scale as an input (`model.guidance`); `model.cfg` above 1 is true
classifier-free guidance beside it, with a second branch. The noise levels are a line, shifted by the
checkpoint's shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.policy import Policy
from rlvis.records import Schedule

TOKENS = 256  # of Llama behind the template, at most and by default
CLIP_TOKENS = 77
STOCK_UNIT = 16  # the stock pipeline takes no other multiples of pixels
# The blocks that refine the text, in ComfyUI and here.
REFINER = "txt_in.individual_token_refiner.blocks.*"
OWN_REFINER = "context_embedder.token_refiner.refiner_blocks.*"


class HunyuanVideo(Policy):
    """`HunyuanVideoPipeline`; embeds are prompt_embeds [P,L,D], pooled_prompt_embeds [P,E] and mask [P,L]."""

    pipeline_name = "HunyuanVideoPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    fps = 24.0
    takes_guidance = True
    usual_guidance = 6.0
    # DanceGRPO's: the attention of all blocks.
    lora_targets = ("to_k", "to_out.0", "to_q", "to_v")
    # ComfyUI's module is that of the first release, which has query, key, value in one layer.
    comfy_names = comfy.Names(
        comfy.double_stream("net.0.proj", "net.2")
        | {
            "single_blocks.*.linear1": (
                *(f"single_transformer_blocks.*.attn.{layer}" for layer in ("to_q", "to_k", "to_v")),
                "single_transformer_blocks.*.proj_mlp",
            ),
            "single_blocks.*.linear2": "single_transformer_blocks.*.proj_out",
            f"{REFINER}.self_attn.qkv": tuple(f"{OWN_REFINER}.attn.{x}" for x in ("to_q", "to_k", "to_v")),
            f"{REFINER}.self_attn.proj": f"{OWN_REFINER}.attn.to_out.0",
            f"{REFINER}.mlp.0": f"{OWN_REFINER}.ff.net.0.proj",
            f"{REFINER}.mlp.2": f"{OWN_REFINER}.ff.net.2",
        }
    )

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, F, H, W); sides are multiples of autoencoder factor x patch (and 16), frames are 4 k + 1."""
        config: Any = self.module.config
        if config.image_condition_type is not None or config.patch_size_t != 1:
            raise ValueError(
                f"model.path={self.config.path}: image_condition_type={config.image_condition_type} and "
                f"patch_size_t={config.patch_size_t}, and text to video with patches of one frame is driven "
                "here; type model.path=hunyuanvideo-community/HunyuanVideo"
            )
        self.check_guidance()
        self.tokens = sizes.check_tokens(self.config, TOKENS, TOKENS)
        factor, every = self.pipe.vae_scale_factor_spatial, self.pipe.vae_scale_factor_temporal
        unit = math.lcm(factor * config.patch_size, STOCK_UNIT)
        sizes.check_sides(self.config, unit, f"autoencoder {factor} x patch {config.patch_size}")
        sizes.check_frames(self.config, every, 1)
        return config.in_channels, *sizes.latent_grid(self.config, factor, every)

    def embed(self, text: str) -> dict[str, Tensor]:
        """Llama's prompt_embeds [1,L,D] and mask [1,L], CLIP's pooled_prompt_embeds [1,E], by the stock
        `encode_prompt`.
        """
        prompt, pooled, mask = self.pipe.encode_prompt(
            prompt=[text], device=self.device, max_sequence_length=self.tokens
        )
        return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled, "mask": mask}

    def truncated(self, text: str) -> bool:
        """Whether the text is too long for CLIP and for Llama, which has the template's tokens before it."""
        from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video as stock

        template: Any = stock.DEFAULT_PROMPT_TEMPLATE
        whole, most = template["template"].format(text), self.tokens + template["crop_start"]
        return (
            len(self.pipe.tokenizer(whole, truncation=False).input_ids) > most
            and len(self.pipe.tokenizer_2(text, truncation=False).input_ids) > CLIP_TOKENS
        )

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """A line from 1 to 1/steps, shifted by the checkpoint's shift (7), or DanceGRPO's."""
        return grids.line_schedule(self.pipe, self.config.path, 0, steps, shift, grid)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,F,H,W] at 1000 sigma; the guidance scale goes in a thousandfold."""
        velocity: Tensor = module(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=embeds["prompt_embeds"],
            encoder_attention_mask=embeds["mask"].to(x.dtype),
            pooled_projections=embeds["pooled_prompt_embeds"],
            guidance=torch.full((x.shape[0],), self.guidance, dtype=x.dtype, device=x.device) * 1000.0,
            return_dict=False,
        )[0]
        return velocity

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,F,H,W] -> [B,M,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        vae = self.pipe.vae
        return decoding.clip(self.pipe, vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0])

    def call_settings(self) -> dict[str, Any]:
        """Stock calls the embedded scale guidance_scale, and classifier-free guidance true_cfg_scale."""
        settings = super().call_settings() | {"guidance_scale": self.guidance}
        settings.pop("negative_prompt", None)
        return settings | self.true_cfg()


ENTRY = HunyuanVideo
