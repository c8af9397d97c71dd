"""Families of images whose denoiser sees tokens of 2 x 2 latents: what FLUX.1 and Qwen-Image share.

States stay [B,C,1,H,W] everywhere and are packed for the denoiser alone, so maps and log-probs have a
position per latent. The noise levels are a line from 1 to 1/steps, shifted as the checkpoint's scheduler
says.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from rlvis.models import grids, packing, sizes
from rlvis.models.policy import Policy
from rlvis.records import Schedule


class PackedImages(Policy):
    """tokens_of_text: by default, and at most."""

    tokens_of_text: ClassVar[tuple[int, int]]

    @abstractmethod
    def check_denoiser(self) -> None:
        """Refuse, with a ValueError, a checkpoint whose denoiser takes other inputs than it is given."""

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, 1, H, W); sides are multiples of autoencoder factor x 2, since four latents make a token."""
        config: Any = self.module.config
        factor = self.pipe.vae_scale_factor
        sizes.check_images(self.config)
        sizes.check_sides(self.config, 2 * factor, f"autoencoder {factor} x packing 2")
        self.tokens = sizes.check_tokens(self.config, *self.tokens_of_text)
        self.check_denoiser()
        return config.in_channels // 4, 1, self.config.height // factor, self.config.width // factor

    def shared_tokens(self) -> sizes.Tokens:
        """Four latents make a token; the text runs beside them."""
        _, _, height, width = self.latent_shape
        return sizes.Tokens((1, height // 2, width // 2), self.tokens)

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """A line from 1 to 1/steps, shifted by the resolution or by the scheduler's fixed shift, stretched
        where it says so.
        """
        _, _, h, w = self.latent_shape
        return grids.line_schedule(self.pipe, self.config.path, h * w // 4, steps, shift, grid)

    def call_settings(self) -> dict[str, Any]:
        """Stock calls the embedded scale guidance_scale, and classifier-free guidance true_cfg_scale."""
        config: Any = self.module.config
        settings = super().call_settings()
        del settings["guidance_scale"]
        if config.guidance_embeds:
            settings["guidance_scale"] = self.guidance
        return settings | self.true_cfg()

    def stock_latents(self, x: Tensor) -> Tensor:
        """Tokens [B, H W / 4, 4 C]."""
        return packing.pack(x)
