"""CogVideoX 1.0 (arXiv 2408.06072): T5 text, a causal video autoencoder, v-prediction, CFG.

A variance-preserving model: it is sampled by DDIM over the checkpoint's betas (down to no signal at the
first step), whatever scheduler the checkpoint names, so it takes sampler.kernel=ddim. Latents are [B,C,F,H,W]
here and [B,F,C,H,W] in the stock pipeline. CogVideoX 1.5 (patches in time) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rlvis.flow import schedules
from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.policy import Policy
from rlvis.records import Schedule

STOCK_UNIT = 8  # the stock pipeline takes no other multiples of pixels


class CogVideoX(Policy):
    """`CogVideoXPipeline`; its embeds are prompt_embeds [P,L,D]."""

    pipeline_name = "CogVideoXPipeline"
    fps = 8.0
    prediction = "v_prediction"
    variance_preserving = True
    # The attention of all blocks.
    lora_targets = ("attn1.to_k", "attn1.to_out.0", "attn1.to_q", "attn1.to_v")
    comfy_names = comfy.Names(
        {
            "blocks.*.q": "transformer_blocks.*.attn1.to_q",
            "blocks.*.k": "transformer_blocks.*.attn1.to_k",
            "blocks.*.v": "transformer_blocks.*.attn1.to_v",
            "blocks.*.attn_out": "transformer_blocks.*.attn1.to_out.0",
            "blocks.*.ff_proj": "transformer_blocks.*.ff.net.0.proj",
            "blocks.*.ff_out": "transformer_blocks.*.ff.net.2",
        }
    )

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, F, H, W); sides are multiples of autoencoder factor x patch, frames are 4 k + 1."""
        config = self.pipe.transformer.config
        if config.patch_size_t is not None:
            raise ValueError(
                f"model.path={self.config.path}: patch_size_t={config.patch_size_t}, as CogVideoX 1.5, and "
                "1.0 is driven here; type model.path=zai-org/CogVideoX-5b"
            )
        self.ddim = self._ddim()
        self.tokens: int = config.max_text_seq_length
        if self.config.max_tokens not in (None, self.tokens):
            raise ValueError(
                f"model.max_tokens={self.config.max_tokens}: the text of model.path={self.config.path} has "
                f"{self.tokens} tokens; type model.max_tokens=null"
            )
        factor, every = self.pipe.vae_scale_factor_spatial, self.pipe.vae_scale_factor_temporal
        unit = math.lcm(factor * config.patch_size, STOCK_UNIT)
        sizes.check_sides(self.config, unit, f"autoencoder {factor} x patch {config.patch_size}")
        sizes.check_frames(self.config, every, 1)
        frames, height, width = sizes.latent_grid(self.config, factor, every)
        learned = (config.sample_frames, config.sample_height, config.sample_width)
        if config.use_learned_positional_embeddings and learned != (self.config.frames, height, width):
            raise ValueError(
                f"model.path={self.config.path} learned the positions of one size; type model.height="
                f"{learned[1] * factor} model.width={learned[2] * factor} model.frames={learned[0]}"
            )
        self.rotary = self._rotary(frames) if config.use_rotary_positional_embeddings else None
        return config.in_channels, frames, height, width

    def _rotary(self, frames: int) -> tuple[Tensor, Tensor]:
        size = self.config.height, self.config.width
        both: tuple[Tensor, Tensor] = self.pipe._prepare_rotary_positional_embeddings(
            *size, frames, self.device
        )
        return both

    def _ddim(self) -> Any:
        from diffusers import CogVideoXDDIMScheduler

        ddim: Any = CogVideoXDDIMScheduler
        config = self.pipe.scheduler.config
        prediction, spacing = config.get("prediction_type"), config.get("timestep_spacing")
        if prediction != self.prediction or spacing != "trailing":
            raise ValueError(
                f"the scheduler of model.path={self.config.path} says prediction_type={prediction} and "
                f"timestep_spacing={spacing}; wanted {self.prediction} and trailing, as the released "
                "checkpoints have"
            )
        return ddim.from_config(config)

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D], by the stock `encode_prompt`."""
        prompt, _ = self.pipe.encode_prompt(
            [text],
            do_classifier_free_guidance=False,
            max_sequence_length=self.tokens,
            device=self.device,
        )
        return {"prompt_embeds": prompt}

    def truncated(self, text: str) -> bool:
        """Whether the text has more tokens than T5 is given."""
        return len(self.pipe.tokenizer(text, truncation=False).input_ids) > self.tokens

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """DDIM's trailing timesteps over the checkpoint's betas; ends at the scheduler's last level.

        Raises ValueError for another grid, a shift, or a number of steps that does not divide the betas'.
        """
        grids.check_ddim(grid, shift, "CogVideoX is")
        levels = schedules.ddim(self.ddim.alphas_cumprod, steps, 0, "trailing")
        last = float(self.ddim.final_alpha_cumprod)
        sigma, alpha = levels.sigma.clone(), levels.alpha.clone()
        sigma[-1], alpha[-1] = math.sqrt(1 - last), math.sqrt(last)
        return Schedule(sigma=sigma, alpha=alpha, time=levels.time)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """v = alpha eps - sigma x0 of x [B,C,F,H,W] at the training timestep."""
        out: Tensor = module(
            hidden_states=x.transpose(1, 2),
            encoder_hidden_states=embeds["prompt_embeds"],
            timestep=time,
            image_rotary_emb=self.rotary,
            return_dict=False,
        )[0]
        return out.transpose(1, 2)

    def guide(self, negative: Tensor, out: Tensor, time: Tensor) -> Tensor:
        """In float32, as stock."""
        return super().guide(negative.float(), out.float(), time)

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,F,H,W] -> [B,M,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        return decoding.clip(self.pipe, self.pipe.decode_latents(latents.transpose(1, 2)))

    def stock_scheduler(self, pipe: Any) -> Any:
        """DDIM instead of the checkpoint's scheduler."""
        return self._ddim()

    def call_settings(self) -> dict[str, Any]:
        """With the length of the text, which the checkpoint fixes."""
        return super().call_settings() | {"max_sequence_length": self.tokens}

    def stock_latents(self, x: Tensor) -> Tensor:
        """[B,F,C,H,W]."""
        return x.transpose(1, 2)


ENTRY = CogVideoX
