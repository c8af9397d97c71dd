"""Stable Diffusion XL (Podell et al. 2023): the UNet of sd15.py with two CLIPs, a pooled text and size
conditions.

The sizes that the UNet takes are those of the sample, without a crop, as the stock pipeline tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models.families.sd15 import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`; its embeds are prompt_embeds [P,L,D] and pooled_prompt_embeds [P,E]."""

    pipeline_name = "StableDiffusionXLPipeline"
    title = "Stable Diffusion XL models"
    text_encoders = ("text_encoder", "text_encoder_2")
    unused = ("image_encoder", "feature_extractor")

    def geometry(self) -> tuple[int, int, int, int]:
        """As Stable Diffusion's; an autoencoder that normalises its latents is refused."""
        if self.pipe.vae.config.latents_mean is not None:
            raise ValueError(
                f"model.path={self.config.path}: its autoencoder has latents_mean, as Playground v2.5, which "
                "is not followed here; choose another model.path"
            )
        return super().geometry()

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] and pooled_prompt_embeds [1,E], by the stock `encode_prompt`."""
        prompt, _, pooled, _ = self.pipe.encode_prompt(
            [text], device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}

    def embed_negative(self) -> dict[str, Tensor]:
        """Zeros for an empty negative prompt where the checkpoint was trained with them, as stock."""
        embeds = self.embed(self.config.negative_prompt)
        if self.config.negative_prompt or not self.pipe.config.force_zeros_for_empty_prompt:
            return embeds
        return {name: torch.zeros_like(value) for name, value in embeds.items()}

    def truncated(self, text: str) -> bool:
        """Whether the text is too long for both encoders."""
        tokenizers = (self.pipe.tokenizer, self.pipe.tokenizer_2)
        return all(len(t(text, truncation=False).input_ids) > t.model_max_length for t in tokenizers)

    def added(self, x: Tensor, embeds: Mapping[str, Tensor]) -> dict[str, Any]:
        """The pooled text, and original size, crop and target size in pixels."""
        size = (self.config.height, self.config.width)
        ids = torch.tensor([*size, 0, 0, *size], dtype=x.dtype, device=x.device)
        return {
            "added_cond_kwargs": {
                "text_embeds": embeds["pooled_prompt_embeds"],
                "time_ids": ids.repeat(len(x), 1),
            }
        }


ENTRY = StableDiffusionXL
