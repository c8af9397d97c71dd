"""Wan 2.1 and 2.2 (arXiv 2503.20314): UMT5 text, a causal video autoencoder, rectified flow, CFG.

One family for all checkpoints, which say themselves what they are: text to video; Wan2.2-TI2V, which can hold
a given first latent frame, its tokens at time 0 (`expand_timesteps`); image to video, with the frame as
further input channels (wan_i2v.py); Wan2.2-A14B's two experts (wan_experts.py). Sampling follows the released
noise levels of UniPC, not its multistep solver, whose steps have no log-prob.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.flow import schedules
from rlvis.models import comfy, decoding, grids, lora, sizes, wan_checks, wan_i2v
from rlvis.models.policy import GIVEN, Policy
from rlvis.models.wan_experts import NAMES, Experts
from rlvis.records import Schedule

STOCK_UNIT = 16  # the stock pipelines take no other multiples of pixels, whatever the autoencoder could do
# The scheduler of the released checkpoints, as grids.PLAIN_EULER: what it must say for its grid to be ours.
PLAIN_UNIPC: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "final_sigmas_type": "zero",
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
# Class of the scheduler -> its key of the time shift, our grid, and what its other keys must be.
SCHEDULERS: dict[str, tuple[str, Callable[[int, float], Schedule], dict[str, Any]]] = {
    "UniPCMultistepScheduler": ("flow_shift", schedules.unipc_flow, PLAIN_UNIPC),
    "FlowMatchEulerDiscreteScheduler": ("shift", schedules.flow_match_euler, grids.PLAIN_EULER),
}


class Wan(Policy):
    """`WanPipeline`, `WanImageToVideoPipeline`; embeds are prompt_embeds [P,L,D] and what a frame gives."""

    pipeline_name = "WanPipeline"
    also_opens = ("WanImageToVideoPipeline",)
    takes_frames = True
    fps = 16.0
    takes_cfg_2 = True
    # Flow-GRPO's: self-attention and the attention to the text, and to the picture where there is one.
    lora_targets = tuple(
        f"{attention}.{layer}"
        for attention in ("attn1", "attn2")
        for layer in ("to_k", "to_out.0", "to_q", "to_v")
    )
    comfy_names = comfy.Names(
        {
            f"blocks.*.{theirs}.{layer}": f"blocks.*.{attention}.{own}"
            for theirs, attention in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for layer, own in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
        }
        | {
            "blocks.*.cross_attn.k_img": "blocks.*.attn2.add_k_proj",
            "blocks.*.cross_attn.v_img": "blocks.*.attn2.add_v_proj",
            "blocks.*.ffn.0": "blocks.*.ffn.net.0.proj",
            "blocks.*.ffn.2": "blocks.*.ffn.net.2",
            "time_embedding.0": "condition_embedder.time_embedder.linear_1",
            "time_embedding.2": "condition_embedder.time_embedder.linear_2",
            "time_projection.1": "condition_embedder.time_proj",
            "text_embedding.0": "condition_embedder.text_embedder.linear_1",
            "text_embedding.2": "condition_embedder.text_embedder.linear_2",
            "head.head": "proj_out",
        }
    )

    def accept(self, index: Mapping[str, Any]) -> None:
        """Refuse what the checkpoint cannot do: start from a frame, start without one, a second guidance."""
        wan_checks.check_index(self.config, index)

    @property
    def experts(self) -> bool:
        """Whether there are two denoisers, for high and for low noise."""
        return self.pipe.config.boundary_ratio is not None

    @property
    def holds(self) -> bool:
        """With expand_timesteps the first latent frame is held; other checkpoints read the frame."""
        return self.conditioned and bool(self.pipe.config.expand_timesteps)

    def trained_module(self) -> nn.Module:
        """The denoiser, or both experts in one module."""
        module = self.stock_module(self.pipe)
        config: Any = module.config
        if config.image_dim is not None:
            self.lora_targets = (*self.lora_targets, "attn2.add_k_proj", "attn2.add_v_proj")
        return module

    def denoisers(self) -> dict[str, Any]:
        """One denoiser, or two."""
        return {name: getattr(self.pipe, name) for name in NAMES[: 1 + self.experts]}

    def stock_module(self, pipe: Any) -> nn.Module:
        """The denoiser of `pipe`, or its two experts behind one call."""
        if not self.experts:
            denoiser: nn.Module = pipe.transformer
            return denoiser
        boundary = self.pipe.config.boundary_ratio * self.pipe.scheduler.config.num_train_timesteps
        return Experts(pipe.transformer, pipe.transformer_2, boundary)

    def lora_settings(self) -> list[dict[str, Any]]:
        """The stock loader takes one denoiser's file a call."""
        second = {"weight_name": lora.FILES[1], "load_into_transformer_2": True}
        return [*super().lora_settings(), *([second] if self.experts else [])]

    def call_settings(self) -> dict[str, Any]:
        """As of all families, and the second guidance."""
        second = {} if self.config.cfg_2 is None else {"guidance_scale_2": self.config.cfg_2}
        return super().call_settings() | second

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, F, H, W); sides are multiples of autoencoder factor x patch (and 16), frames are 4 k + 1."""
        config: Any = self.module.config
        channels = self.pipe.vae.config.z_dim
        wan_checks.check_inputs(self.pipe, self.config, self.conditioned and not self.holds)
        sizes.check_tokens(self.config, wan_checks.TOKENS, wan_checks.TOKENS)
        factor, most = self.pipe.vae_scale_factor_spatial, config.rope_max_seq_len
        patch = config.patch_size[1]
        unit = math.lcm(factor * patch, STOCK_UNIT)
        sizes.check_sides(self.config, unit, f"autoencoder {factor} x patch {patch}", factor * patch * most)
        every = self.pipe.vae_scale_factor_temporal
        sizes.check_frames(self.config, every, 2 if self.holds else 1, most)
        return channels, *sizes.latent_grid(self.config, factor, every)

    def shared_tokens(self) -> sizes.Tokens:
        """A token for each patch; the text is attended to apart."""
        config: Any = self.module.config
        _, frames, height, width = self.latent_shape
        t, h, w = config.patch_size
        return sizes.Tokens((frames // t, height // h, width // w))

    @property
    def stock_name(self) -> str:
        """diffusers has a class for each task, and both open the other's files."""
        return "WanImageToVideoPipeline" if self.conditioned else "WanPipeline"

    @property
    def max_tokens(self) -> int:
        """Length of the text condition, in tokens of UMT5."""
        return wan_checks.TOKENS if self.config.max_tokens is None else self.config.max_tokens

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] by the stock `encode_prompt`, zeros behind the text's end."""
        prompt, _ = self.pipe.encode_prompt(
            prompt=[text],
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_tokens,
            device=self.device,
        )
        return {"prompt_embeds": prompt}

    def truncated(self, text: str) -> bool:
        """Whether the text has more tokens than `max_tokens`."""
        return len(self.pipe.tokenizer(text, truncation=False).input_ids) > self.max_tokens

    def condition(self, frame: Tensor) -> dict[str, Tensor]:
        """Normalised modes of the autoencoder's code: of `frame` where it is held, else of a clip behind it,
        with the image encoder's output where the denoiser reads it.
        """
        frame = frame.to(self.device)
        mean, inverse = self._moments()
        length = 1 if self.holds else self.config.frames
        latents = (wan_i2v.clip_latents(self.pipe.vae, frame, length) - mean) * inverse
        if self.holds:
            return {GIVEN: latents}
        config: Any = self.module.config
        image = {} if config.image_dim is None else {wan_i2v.IMAGE: wan_i2v.image_embedding(self.pipe, frame)}
        return {wan_i2v.LATENTS: latents} | image

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """The checkpoint's grid, Euler's (time is 1000 sigma) or UniPC's (its integer part), or DanceGRPO's.

        Raises ValueError for another grid name, or when the checkpoint's scheduler does what ours does not.
        """
        scheduler = self.pipe.scheduler
        config, name = scheduler.config, type(scheduler).__name__
        if grid not in ("model", "linear"):
            raise ValueError(f"sampler.grid={grid}: choose model or linear")
        if name not in SCHEDULERS:
            raise ValueError(
                f"the scheduler of model.path={self.config.path} is a {name}, and the grids of "
                f"{' and '.join(SCHEDULERS)} are known here; put one of them into the folder's scheduler/"
            )
        key, make, plain = SCHEDULERS[name]
        shift = config[key] if shift is None else shift
        if grid == "linear":
            return schedules.shifted_linear(steps, shift)
        grids.check_plain(config, plain, self.config.path)
        return make(steps, shift)

    def route(self, module: Callable[..., Any], mixed: bool) -> Callable[..., Any]:
        """Both experts run where rows are at different steps."""
        return partial(module, mixed=True) if mixed and self.experts else module

    def guide(self, negative: Tensor, out: Tensor, time: Tensor) -> Tensor:
        """Guidance cfg, and cfg_2 for rows of the second expert."""
        guided = super().guide(negative, out, time)
        if self.config.cfg_2 is None:
            return guided
        experts: Any = self.module
        low = negative + self.config.cfg_2 * (out - negative)
        return torch.where(experts.high(time).view(-1, 1, 1, 1, 1), guided, low)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,F,H,W] at model time; with expand_timesteps, 0 at given tokens."""
        config: Any = self.module.config
        if self.pipe.config.expand_timesteps:
            t, h, w = config.patch_size
            time = time[:, None] * (~self.given[::t, ::h, ::w]).flatten().to(time)
        if wan_i2v.LATENTS in embeds:
            x = wan_i2v.beside(x, embeds[wan_i2v.LATENTS], self.pipe.vae_scale_factor_temporal)
        velocity: Tensor = module(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=embeds["prompt_embeds"],
            encoder_hidden_states_image=embeds.get(wan_i2v.IMAGE),
            return_dict=False,
        )[0]
        return velocity

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,F,H,W] -> [B,M,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        mean, inverse = self._moments()
        return decoding.clip(self.pipe, self.pipe.vae.decode(latents / inverse + mean, return_dict=False)[0])

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and 1 / std of the autoencoder's code, [1,C,1,1,1] each, rounded as stock."""
        config = self.pipe.vae.config
        mean = torch.tensor(config.latents_mean, device=self.device).view(1, -1, 1, 1, 1)
        return mean, 1.0 / torch.tensor(config.latents_std, device=self.device).view(1, -1, 1, 1, 1)


ENTRY = Wan
