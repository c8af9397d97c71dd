"""Qwen-Image (arXiv 2508.02324): text by Qwen2.5-VL, tokens of 2 x 2 latents, rectified flow, CFG.

Unusual: guidance keeps the length that each token has in the conditional branch. Text has as many tokens as
it has; here it is padded to `model.max_tokens` with a mask, so that a prompt's embedding does not depend on
the prompts beside it, and the padding costs time: choose max_tokens as short as the prompts allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models import comfy, decoding, packing
from rlvis.models.lora import JOINT_ATTENTION
from rlvis.models.packed import PackedImages


class QwenImage(PackedImages):
    """`QwenImagePipeline`; its embeds are prompt_embeds [P,L,D] and prompt_embeds_mask [P,L] of 0 and 1."""

    pipeline_name = "QwenImagePipeline"
    tokens_of_text = (512, 1024)
    # Flow-GRPO's for Qwen-Image: the attention of both streams and their feed-forward layers.
    lora_targets = (
        *JOINT_ATTENTION,
        "img_mlp.net.0.proj",
        "img_mlp.net.2",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
    )
    comfy_names = comfy.Names(comfy.same(*(f"transformer_blocks.*.{layer}" for layer in lora_targets)))

    def check_denoiser(self) -> None:
        """Refuse a denoiser that takes a guidance scale, or of an editing model."""
        config: Any = self.module.config
        if config.guidance_embeds or config.zero_cond_t:
            raise ValueError(
                f"model.path={self.config.path}: its denoiser sets guidance_embeds={config.guidance_embeds} "
                f"zero_cond_t={config.zero_cond_t}, and this family knows neither; type "
                "model.path=Qwen/Qwen-Image"
            )

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] by the stock `encode_prompt`, zeros behind the text's end, and the mask."""
        prompt, mask = self.pipe.encode_prompt(
            prompt=[text], device=self.device, max_sequence_length=self.tokens
        )
        long = prompt.shape[1]
        # Stock gives no mask where there is no padding.
        mask = torch.ones(1, long, device=prompt.device) if mask is None else mask
        rest = self.tokens - long
        return {
            "prompt_embeds": torch.nn.functional.pad(prompt, (0, 0, 0, rest)),
            "prompt_embeds_mask": torch.nn.functional.pad(mask.long(), (0, rest)),
        }

    def truncated(self, text: str) -> bool:
        """Whether the text within its template has more tokens than `max_tokens`."""
        whole = self.pipe.tokenizer(self.pipe.prompt_template_encode.format(text), truncation=False)
        dropped: int = self.pipe.prompt_template_encode_start_idx
        return len(whole.input_ids) - dropped > self.tokens

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,1,H,W] at 1000 sigma; the denoiser sees tokens and sigma."""
        rows, _, _, h, w = x.shape
        velocity = module(
            hidden_states=packing.pack(x),
            timestep=time.to(x.dtype) / 1000,  # rounded before it is divided, as stock
            encoder_hidden_states=embeds["prompt_embeds"],
            encoder_hidden_states_mask=embeds["prompt_embeds_mask"],
            img_shapes=[[(1, h // 2, w // 2)]] * rows,
            return_dict=False,
        )[0]
        return packing.unpack(velocity, h, w)

    def guide(self, negative: Tensor, out: Tensor, time: Tensor) -> Tensor:
        """Classifier-free guidance, every token then scaled to the length of the conditional branch."""
        guided, cond = packing.pack(super().guide(negative, out, time)), packing.pack(out)
        scale = cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return packing.unpack(guided * scale, *out.shape[-2:])

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,1,H,W] -> [B,1,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        config = self.pipe.vae.config
        mean = torch.tensor(config.latents_mean, device=self.device).view(1, -1, 1, 1, 1)
        inverse = 1.0 / torch.tensor(config.latents_std, device=self.device).view(1, -1, 1, 1, 1)
        decoded = self.pipe.vae.decode(latents / inverse + mean, return_dict=False)[0][:, :, 0]
        return decoding.still(self.pipe, decoded)


ENTRY = QwenImage
