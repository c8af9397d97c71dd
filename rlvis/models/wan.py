"""Wan 2.1 and 2.2 TI2V (arXiv 2503.20314): UMT5 text, a causal video autoencoder, rectified flow, CFG.

One denoiser makes clips from text, and from a first frame too where the checkpoint has `expand_timesteps`
(Wan2.2-TI2V): the tokens of the given latent frame are told time 0. Wan2.1-I2V (mask channels and an image
encoder) and the two experts of Wan2.2-A14B are refused. Sampling follows the released noise levels of UniPC,
not its multistep solver, whose steps have no log-prob.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.flow import schedules
from rlvis.models.policy import Policy
from rlvis.models.sd3 import PLAIN_SCHEDULER
from rlvis.records import Schedule

DEFAULT_TOKENS = 512
STOCK_UNIT = 16  # the stock pipelines take no other multiples of pixels, whatever the autoencoder could do
# The scheduler of the released checkpoints, as PLAIN_SCHEDULER: what it must say for its grid to be ours.
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
    "FlowMatchEulerDiscreteScheduler": ("shift", schedules.flow_match_euler, PLAIN_SCHEDULER),
}


class Wan(Policy):
    """`WanPipeline`; its embeds are prompt_embeds [P,L,D], and the given latents of a condition frame."""

    pipeline_name = "WanPipeline"
    also_opens = ("WanImageToVideoPipeline",)
    takes_frames = True
    # Flow-GRPO's: self-attention and the attention to the text.
    lora_targets = tuple(
        f"{attention}.{layer}"
        for attention in ("attn1", "attn2")
        for layer in ("to_k", "to_out.0", "to_q", "to_v")
    )

    def accept(self, index: Mapping[str, Any]) -> None:
        """Refuse two experts, an image encoder, and a condition frame for a checkpoint that takes none."""
        path = self.config.path
        if index.get("boundary_ratio") is not None or _present(index, "transformer_2"):
            raise ValueError(
                f"model.path={path} has two experts (transformer_2, boundary_ratio="
                f"{index.get('boundary_ratio')}), as Wan2.2-A14B, and one denoiser is trained here; type "
                "model.path=Wan-AI/Wan2.2-TI2V-5B-Diffusers, or a Wan2.1-T2V"
            )
        if _present(index, "image_encoder"):
            raise ValueError(
                f"model.path={path} has an image encoder, as Wan2.1-I2V, whose conditions are not made here; "
                "type model.path=Wan-AI/Wan2.2-TI2V-5B-Diffusers model.condition=first_frame"
            )
        if self.conditioned and not index.get("expand_timesteps"):
            raise ValueError(
                f"model.condition=first_frame needs a checkpoint with expand_timesteps, as Wan2.2-TI2V, and "
                f"model.path={path} has none; type model.condition=none"
            )

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, F, H, W); sides are multiples of autoencoder factor x patch (and 16), frames are 4 k + 1."""
        config: Any = self.module.config
        channels = self.pipe.vae.config.z_dim
        if config.in_channels != channels:
            raise ValueError(
                f"model.path={self.config.path}: its denoiser takes {config.in_channels} channels and its "
                f"autoencoder makes {channels}; the others would be a mask and a condition, as in "
                "Wan2.1-I2V, which is not supported; type model.path=Wan-AI/Wan2.2-TI2V-5B-Diffusers"
            )
        if self.max_tokens < 1:
            raise ValueError(f"model.max_tokens={self.max_tokens}: wanted at least 1; Wan's own is 512")
        factor, most = self.pipe.vae_scale_factor_spatial, config.rope_max_seq_len
        _, *patches = config.patch_size
        for name, pixels, patch in zip(
            ("height", "width"), (self.config.height, self.config.width), patches, strict=True
        ):
            unit = math.lcm(factor * patch, STOCK_UNIT)
            _check_multiple(name, pixels, unit, factor * patch * most)
        every, frames = self.pipe.vae_scale_factor_temporal, self.config.frames
        _check_frames(frames, every, 2 if self.conditioned else 1, most)
        height, width = self.config.height // factor, self.config.width // factor
        return channels, (frames - 1) // every + 1, height, width

    @property
    def max_tokens(self) -> int:
        """Length of the text condition, in tokens of UMT5."""
        return DEFAULT_TOKENS if self.config.max_tokens is None else self.config.max_tokens

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

    def condition(self, frame: Tensor) -> Tensor:
        """The first latent frame of a clip: mode of the autoencoder's code of `frame`, normalised."""
        pixels = frame.to(self.device, torch.float32) / 255 * 2 - 1
        code = self.pipe.vae.encode(pixels[None, :, None]).latent_dist.mode()
        mean, inverse = self._moments()
        return (code - mean) * inverse

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
        odd = [k for k, usual in plain.items() if (config.get(k, usual) or None) != (usual or None)]
        if odd:
            raise ValueError(
                f"the scheduler of model.path={self.config.path} sets "
                f"{', '.join(f'{k}={config[k]}' for k in odd)}, which sampler.grid=model does not follow; "
                "type sampler.grid=linear, with a sampler.shift of your choice"
            )
        return make(steps, shift)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,F,H,W] at model time; with expand_timesteps, 0 at given tokens."""
        if self.pipe.config.expand_timesteps:
            config: Any = self.module.config
            t, h, w = config.patch_size
            time = time[:, None] * (~self.given[::t, ::h, ::w]).flatten().to(time)
        velocity: Tensor = module(
            hidden_states=x, timestep=time, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False
        )[0]
        return velocity

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,F,H,W] -> [B,M,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        mean, inverse = self._moments()
        clip = self.pipe.vae.decode(latents / inverse + mean, return_dict=False)[0]
        video: Tensor = self.pipe.video_processor.postprocess_video(clip, output_type="pt")
        return video

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and 1 / std of the autoencoder's code, [1,C,1,1,1] each, rounded as stock."""
        config = self.pipe.vae.config
        mean = torch.tensor(config.latents_mean, device=self.device).view(1, -1, 1, 1, 1)
        return mean, 1.0 / torch.tensor(config.latents_std, device=self.device).view(1, -1, 1, 1, 1)


def _present(index: Mapping[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and entry[0] is not None


def _check_multiple(name: str, pixels: int, unit: int, most: int) -> None:
    if pixels % unit or not unit <= pixels <= most:
        below = min(max(unit, pixels // unit * unit), most // unit * unit)
        nearest = f"{below} or {below + unit}" if unit <= pixels < most - unit else f"{below}"
        raise ValueError(
            f"model.{name}={pixels}: this model takes multiples of {unit} pixels from {unit} to {most}; the "
            f"nearest is {nearest}; type model.{name}={below}"
        )


def _check_frames(frames: int, every: int, least: int, most: int) -> None:
    low, high = (least - 1) * every + 1, (most - 1) * every + 1
    if (frames - 1) % every or not low <= frames <= high:
        below = min(max(low, (frames - 1) // every * every + 1), high)
        nearest = f"{below} or {below + every}" if low <= frames < high else f"{below}"
        why = f", and at least {low} after a condition frame" if least > 1 else ""
        raise ValueError(
            f"model.frames={frames}: the autoencoder takes {every} k + 1 frames{why}; the nearest is "
            f"{nearest}; type model.frames={below}"
        )
