"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022): a UNet that predicts noise or velocity, CLIP text, CFG.

Sampling is DDIM over the checkpoint's betas, as in DDPO, whatever scheduler the checkpoint names: the
steps of PNDM, Euler or DPM-Solver have no log-prob. The safety checker is not loaded. sdxl.py shares this.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlvis.flow import schedules
from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.policy import Policy
from rlvis.records import Schedule
from rlvis.schema import ModelConfig

log = logging.getLogger(__name__)

STOCK_UNIT = 8  # the stock pipelines take no other multiples of pixels
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing")


class StableDiffusion(Policy):
    """`StableDiffusionPipeline`; its embeds are prompt_embeds [P,L,D]."""

    pipeline_name = "StableDiffusionPipeline"
    denoiser_name = "unet"
    prediction = "epsilon"  # of most checkpoints; the scheduler of one says it
    variance_preserving = True
    title: ClassVar[str] = "Stable Diffusion 1 and 2"
    # DDPO's: self-attention and the attention to the text.
    lora_targets = ("to_k", "to_out.0", "to_q", "to_v")
    comfy_names = comfy.Names(
        comfy.same(
            *(
                f"{block}.attentions.*.{layer}"
                for block in ("down_blocks.*", "mid_block", "up_blocks.*")
                for layer in (*comfy.text_attention("transformer_blocks.*"), "proj_in", "proj_out")
            )
        ),
        prefix="lora_unet_",
        underscores=True,
    )
    unused: ClassVar[tuple[str, ...]] = ("safety_checker", "feature_extractor", "image_encoder")

    def __init__(
        self, config: ModelConfig, device: torch.device | str, *, keep_reference: bool = False, seed: int = 0
    ) -> None:
        """See `Policy`; what the denoiser predicts is what the checkpoint's scheduler says.

        Raises ValueError also for a scheduler without betas or with a prediction that DDIM does not know.
        """
        super().__init__(config, device, keep_reference=keep_reference, seed=seed)
        self.ddim: Any = self._ddim()
        self.prediction = self.ddim.config.prediction_type

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, 1, H, W); sizes are multiples of the autoencoder's factor, and of 8 as the stock pipeline
        asks.
        """
        config, unet = self.config, self.pipe.unet.config
        factor = self.pipe.vae_scale_factor
        unit = math.lcm(factor, STOCK_UNIT)
        if config.frames != 1:
            raise ValueError(f"model.frames={config.frames}: {self.title} make images; type model.frames=1")
        if config.max_tokens is not None:
            raise ValueError(
                f"model.max_tokens={config.max_tokens}: CLIP's length is fixed "
                f"({self.pipe.tokenizer.model_max_length} tokens); type model.max_tokens=null"
            )
        if unet.in_channels != unet.out_channels or unet.time_cond_proj_dim is not None:
            what = (
                f"takes {unet.in_channels} channels and makes {unet.out_channels}, as for inpainting"
                if unet.in_channels != unet.out_channels
                else "is told its guidance, as a latent consistency model"
            )
            raise ValueError(
                f"model.path={config.path}: its UNet {what}, and text-to-image models are driven here; "
                "choose another model.path"
            )
        sizes.check_sides(config, unit)
        return unet.in_channels, 1, config.height // factor, config.width // factor

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D], by the stock `encode_prompt`."""
        prompt, _ = self.pipe.encode_prompt([text], self.device, 1, False)
        return {"prompt_embeds": prompt}

    def truncated(self, text: str) -> bool:
        """Whether the text has more tokens than CLIP reads."""
        tokenizer = self.pipe.tokenizer
        return bool(len(tokenizer(text, truncation=False).input_ids) > tokenizer.model_max_length)

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """DDIM's grid over the checkpoint's betas: `trailing` where its scheduler says so, else `leading`.

        Raises ValueError for another grid, a shift, or more steps than the betas have.
        """
        grids.check_ddim(grid, shift, f"{self.title} are")
        config = self.ddim.config
        offset = config.steps_offset if config.timestep_spacing == "leading" else 0
        return schedules.ddim(self.ddim.alphas_cumprod, steps, offset, config.timestep_spacing)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """What `prediction` says, of x [B,C,1,H,W] at the training timestep."""
        out: Tensor = module(
            x.squeeze(2),
            time,
            encoder_hidden_states=embeds["prompt_embeds"],
            return_dict=False,
            **self.added(x, embeds),
        )[0]
        return out.unsqueeze(2)

    def added(self, x: Tensor, embeds: Mapping[str, Tensor]) -> dict[str, Any]:
        """Conditions of the UNet beside the text, for the rows of x."""
        return {}

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,1,H,W] -> [B,1,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        vae = self.pipe.vae
        scaled = latents.squeeze(2) / vae.config.scaling_factor
        return decoding.still(self.pipe, vae.decode(scaled, return_dict=False)[0])

    def stock_scheduler(self, pipe: Any) -> Any:
        """DDIM instead of the checkpoint's scheduler, as `DDIMScheduler.from_config` makes it."""
        return self._ddim()

    def _ddim(self) -> Any:
        import diffusers

        scheduler = self.pipe.scheduler
        config, name = scheduler.config, type(scheduler).__name__
        start = f"the scheduler of model.path={self.config.path} is a {name}"
        if config.get("beta_start") is None and config.get("trained_betas") is None:
            raise ValueError(f"{start} without betas, and DDIM follows betas; choose another model.path")
        prediction, spacing = config.get("prediction_type", "epsilon"), config.get("timestep_spacing")
        if prediction not in PREDICTIONS or config.get("thresholding"):
            thresholding = config.get("thresholding", False)
            raise ValueError(
                f"{start} with prediction_type={prediction}, thresholding={thresholding}; "
                f"known here are {', '.join(PREDICTIONS)} without thresholding; choose another model.path"
            )
        if spacing not in (None, *SPACINGS):
            log.info("%s with %s timesteps; DDIM takes leading ones", start, spacing)
        # Clipping to [-1, 1] is of models of pixels; the last step ends at the grid's last point.
        ddim: Any = diffusers.DDIMScheduler
        return ddim.from_config(
            config,
            clip_sample=False,
            set_alpha_to_one=False,
            timestep_spacing=spacing if spacing in SPACINGS else "leading",
        )


ENTRY = StableDiffusion
