"""Stable Diffusion 3 and 3.5 (MMDiT, Esser et al. 2024): two CLIPs and optionally T5, rectified flow, CFG.

Text and pixels go through the stock pipeline's functions; the sigma grid and the sampling loop are ours,
because reinforcement learning needs a stochastic step. rlvis' tiny image policy is of this family too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rlvis.flow import schedules
from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.comfy import FEED_FORWARD
from rlvis.models.lora import JOINT_ATTENTION
from rlvis.models.policy import Policy
from rlvis.records import Schedule

DEFAULT_TOKENS = 256  # of T5, and of the zeros that stand for it; the stock pipeline's default
MOST_TOKENS = 512


class StableDiffusion3(Policy):
    """`StableDiffusion3Pipeline`; its embeds are prompt_embeds [P,L,D] and pooled_prompt_embeds [P,E]."""

    pipeline_name = "StableDiffusion3Pipeline"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    # Flow-GRPO's, for SD3.5: the attention of both streams, not the second attention of the first blocks.
    lora_targets = JOINT_ATTENTION
    # ComfyUI has a table of diffusers' names for this family.
    comfy_names = comfy.Names(
        comfy.same(
            *(f"transformer_blocks.*.{layer}" for layer in JOINT_ATTENTION),
            *(f"transformer_blocks.*.attn2.{layer}" for layer in ("to_k", "to_out.0", "to_q", "to_v")),
            *(f"transformer_blocks.*.{ff}.{layer}" for ff in ("ff", "ff_context") for layer in FEED_FORWARD),
        ),
        prefix="transformer.",
    )

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, 1, H, W); sizes are multiples of autoencoder factor x patch, up to the position table."""
        config: Any = self.module.config
        factor = self.pipe.vae_scale_factor
        unit = factor * config.patch_size
        sizes.check_images(self.config)
        self.tokens = sizes.check_tokens(self.config, DEFAULT_TOKENS, MOST_TOKENS)
        why = f"autoencoder {factor} x patch {config.patch_size}"
        sizes.check_sides(self.config, unit, why, unit * config.pos_embed_max_size)
        return config.in_channels, 1, self.config.height // factor, self.config.width // factor

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] and pooled_prompt_embeds [1,E], by the stock `encode_prompt`."""
        prompt, _, pooled, _ = self.pipe.encode_prompt(
            prompt=[text],
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.tokens,
        )
        return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}

    def truncated(self, text: str) -> bool:
        """Whether the text is too long for the encoder that reads furthest: T5 (max_tokens), or CLIP."""
        limits = [(self.pipe.tokenizer, self.pipe.tokenizer_max_length)]
        limits.append((self.pipe.tokenizer_2, self.pipe.tokenizer_max_length))
        if self.has("text_encoder_3"):
            limits.append((self.pipe.tokenizer_3, self.tokens))
        return all(len(tokenizer(text, truncation=False).input_ids) > most for tokenizer, most in limits)

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """The stock Euler grid at the checkpoint's shift (SD3: 3), or DanceGRPO's; time is 1000 sigma.

        Raises ValueError for another grid name, or when the checkpoint's scheduler does what ours does not.
        """
        config = self.pipe.scheduler.config
        shift = config["shift"] if shift is None else shift
        if grid == "linear":
            return schedules.shifted_linear(steps, shift)
        if grid != "model":
            raise ValueError(f"sampler.grid={grid}: choose model or linear")
        grids.check_plain(config, grids.PLAIN_EULER, self.config.path)
        return schedules.flow_match_euler(steps, shift)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,1,H,W] at 1000 sigma."""
        velocity: Tensor = module(
            hidden_states=x.squeeze(2),
            timestep=time,
            encoder_hidden_states=embeds["prompt_embeds"],
            pooled_projections=embeds["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return velocity.unsqueeze(2)

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,1,H,W] -> [B,1,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        return decoding.picture(self.pipe, latents)


ENTRY = StableDiffusion3
