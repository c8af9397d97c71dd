"""FLUX.2 (Black Forest Labs): dev with Mistral text and embedded guidance, klein with Qwen3 text and CFG.

The released autoencoder folds 2 x 2 latents into the channels and normalises them, so a state has 128
channels and a position for each token of 16 x 16 pixels; nothing is packed. dev has no negative branch, klein
only an empty negative prompt, and distilled klein none. The shift depends on resolution and number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.flow import schedules
from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.families.flux import positions
from rlvis.models.lora import JOINT_ATTENTION
from rlvis.models.policy import Policy
from rlvis.records import Schedule

TOKENS = 512  # at most and by default
KLEIN = "Flux2KleinPipeline"


class Flux2(Policy):
    """`Flux2Pipeline` and `Flux2KleinPipeline`; its embeds are prompt_embeds [P,L,D]."""

    pipeline_name = "Flux2Pipeline"
    also_opens = (KLEIN,)
    takes_guidance = True
    usual_guidance = 4.0
    # As for FLUX.1: attention of both streams and feed-forward; the single blocks have one layer for both.
    lora_targets = (
        *JOINT_ATTENTION,
        "attn.to_qkv_mlp_proj",
        "ff.linear_in",
        "ff.linear_out",
        "ff_context.linear_in",
        "ff_context.linear_out",
    )
    comfy_names = comfy.Names(
        comfy.double_stream("linear_in", "linear_out")
        | {
            "single_blocks.*.linear1": "single_transformer_blocks.*.attn.to_qkv_mlp_proj",
            "single_blocks.*.linear2": "single_transformer_blocks.*.attn.to_out",
        }
    )

    def accept(self, index: Mapping[str, Any]) -> None:
        """Refuse guidance that the checkpoint's pipeline does not have."""
        klein, path = index.get("_class_name") == KLEIN, f"model.path={self.config.path}"
        if self.guided and not klein:
            raise ValueError(
                f"model.cfg={self.config.cfg}: {path} is guided by an embedded scale and has no negative "
                "branch; type model.cfg=1, and model.guidance=4"
            )
        if self.guided and index.get("is_distilled"):
            raise ValueError(
                f"model.cfg={self.config.cfg}: {path} is distilled and samples without guidance; type "
                "model.cfg=1"
            )
        if self.guided and self.config.negative_prompt:
            raise ValueError(
                f"model.negative_prompt={self.config.negative_prompt!r}: the stock pipeline of {path} takes "
                "an empty one only; type model.negative_prompt=''"
            )

    def geometry(self) -> tuple[int, int, int, int]:
        """(4 C, 1, H / 2, W / 2) of the autoencoder's C, H, W: a position for each token."""
        config: Any = self.module.config
        factor = self.pipe.vae_scale_factor
        sizes.check_images(self.config)
        sizes.check_sides(self.config, 2 * factor, f"autoencoder {factor} x patch 2")
        self.tokens = sizes.check_tokens(self.config, TOKENS, TOKENS)
        self.check_guidance(" (as FLUX.2-klein)")
        unit = 2 * factor
        return config.in_channels, 1, self.config.height // unit, self.config.width // unit

    def shared_tokens(self) -> sizes.Tokens:
        """A token for each position; the text runs beside them."""
        _, _, height, width = self.latent_shape
        return sizes.Tokens((1, height, width), self.tokens)

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] by the stock `encode_prompt`: three layers of the text model side by side."""
        prompt, _ = self.pipe.encode_prompt(
            prompt=[text], device=self.device, max_sequence_length=self.tokens
        )
        return {"prompt_embeds": prompt}

    def truncated(self, text: str) -> bool:
        """Whether the text within its template has more tokens than `max_tokens`."""
        tokenizer = self.pipe.tokenizer
        if type(self.pipe).__name__ == KLEIN:
            talk = [{"role": "user", "content": text}]
            whole = tokenizer.apply_chat_template(
                talk, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            return len(tokenizer(whole, truncation=False).input_ids) > self.tokens
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        talk = format_input([text], system_message=self.pipe.system_message)
        whole = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True)
        return len(whole["input_ids"][0]) > self.tokens

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """A line from 1 to 1/steps, shifted by resolution and number of steps."""
        _, _, h, w = self.latent_shape
        mu = schedules.flux2_mu(h * w, steps)
        return grids.line_schedule(self.pipe, self.config.path, h * w, steps, shift, grid, mu)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,1,H,W] at 1000 sigma; the denoiser sees tokens and sigma."""
        rows, _, _, h, w = x.shape
        config: Any = self.module.config
        text = embeds["prompt_embeds"]
        scale = torch.full((rows,), self.guidance, device=x.device) if config.guidance_embeds else None
        words = torch.zeros(text.shape[1], 4, device=x.device)
        words[:, 3] = torch.arange(text.shape[1], device=x.device)
        velocity: Tensor = module(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=time.to(x.dtype) / 1000,  # rounded before it is divided, as stock
            guidance=scale,
            encoder_hidden_states=text,
            txt_ids=words[None],  # with a dimension of rows, as stock: sequence parallelism splits these
            img_ids=torch.nn.functional.pad(positions(h, w), (0, 1)).to(x.device)[None],
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(x.shape)

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,4C,1,H,W] -> [B,1,3,Y,X] in [0, 1]: unscale, unfold, autoencoder, stock post-processing."""
        return decoding.still(self.pipe, self.pipe.vae.decode(self._unfolded(latents), return_dict=False)[0])

    def call_settings(self) -> dict[str, Any]:
        """Stock calls both kinds of guidance guidance_scale: embedded in dev, classifier-free in klein."""
        config: Any = self.module.config
        scale = self.guidance if config.guidance_embeds else self.config.cfg
        settings = super().call_settings() | {"guidance_scale": scale}
        settings.pop("negative_prompt", None)  # without guidance; with it, there is none
        return settings

    def stock_output(self, x: Tensor) -> Tensor:
        """Tokens [B, H W, C] for dev; for klein what its autoencoder decodes."""
        klein = type(self.pipe).__name__ == KLEIN
        return self._unfolded(x) if klein else x.flatten(2).transpose(1, 2)

    def _unfolded(self, latents: Tensor) -> Tensor:
        """Normalised latents [B,4C,1,H,W] -> the autoencoder's [B,C,2H,2W]."""
        vae, (rows, _, _, h, w) = self.pipe.vae, latents.shape
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
        scaled: Tensor = latents.squeeze(2) * std + vae.bn.running_mean.view(1, -1, 1, 1)
        cells = scaled.reshape(rows, -1, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return cells.reshape(rows, -1, 2 * h, 2 * w)


ENTRY = Flux2
