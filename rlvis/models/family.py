"""What a family of policies says of itself: the part of `Policy` that an adapter writes.

Six methods and a few class attributes it must write (families/sd3.py is the example); the rest has a default
that fits most pipelines of diffusers. The attributes are known before a checkpoint is opened: checks of a
configuration read them from the class.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlvis.flow.kernel import Prediction
from rlvis.models import comfy, lora
from rlvis.models.sizes import Tokens
from rlvis.records import Schedule
from rlvis.schema import Condition, ModelConfig


class Family(ABC):
    """The hooks of one diffusers pipeline; `Policy` sets what they read.

    pipe: the stock pipeline. module: what is trained. latent_shape: (C, F, H, W) of one sample.
    """

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    pipe: Any
    module: nn.Module
    latent_shape: tuple[int, int, int, int]

    pipeline_name: ClassVar[str]  # class in diffusers, also what model_index.json says
    also_opens: ClassVar[tuple[str, ...]] = ()  # other classes of equal parts that model_index.json may name
    denoiser_name: ClassVar[str] = "transformer"  # the pipeline's component that is trained
    prediction: Prediction = "flow"  # what the denoiser returns; a checkpoint may say another
    variance_preserving: ClassVar[bool] = False  # alpha^2 + sigma^2 = 1 (DDIM's levels); else a flow's line
    lora_targets: tuple[str, ...]  # ends of module names, for model.lora.targets=null
    comfy_names: ClassVar[comfy.Names | None] = None  # where ComfyUI keeps its layers; None: nobody knows
    takes_frames: ClassVar[bool] = False  # whether it can start from a condition frame (then see `condition`)
    takes_guidance: ClassVar[bool] = False  # whether the denoiser takes a guidance scale (model.guidance)
    usual_guidance: ClassVar[float] = 1.0  # that scale where model.guidance=null: of the stock call
    takes_cfg_2: ClassVar[bool] = False  # whether a second expert may have another guidance (model.cfg_2)
    fps: ClassVar[float | None] = None  # frames a second at which its clips are to be played
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)  # components that `embed` alone calls
    unused: ClassVar[tuple[str, ...]] = ()  # optional components that sampling never calls: not loaded

    # What it must write.

    @abstractmethod
    def geometry(self) -> tuple[int, int, int, int]:
        """(C, F, H, W) of one latent at the configured height, width (pixels) and frames; F is 1 for images.

        Raises ValueError, naming the nearest legal sizes, when the model cannot make such a sample.
        """

    @abstractmethod
    def embed(self, text: str) -> dict[str, Tensor]:
        """The text conditions of one prompt, each [1, ...], exactly as the stock pipeline makes them."""

    @abstractmethod
    def truncated(self, text: str) -> bool:
        """Whether the end of `text` reaches no text encoder."""

    @abstractmethod
    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """The noise levels of `steps` steps.

        shift: None takes the checkpoint's. grid: "model" is the stock one, "linear" DanceGRPO's.
        """

    @abstractmethod
    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """One call of the denoiser, without guidance: x [B,C,F,H,W], time [B] float32 -> [B,C,F,H,W].

        x and embeds come on the policy's device and in its dtype. Call `module`, which may be an engine
        around `self.module`; read the configuration from `self.module`.
        """

    @abstractmethod
    def decode_chunk(self, latents: Tensor) -> Tensor:
        """Latents [B,C,F,H,W] float32 -> pixels [B,M,3,Y,X] in [0, 1], as the stock pipeline makes them."""

    # What it may write.

    def accept(self, index: Mapping[str, Any]) -> None:
        """Refuse, with a ValueError, a variant that model_index.json shows to be another model."""
        return

    def embed_negative(self) -> dict[str, Tensor]:
        """The text conditions of the negative branch, each [1, ...], as the stock pipeline makes them."""
        return self.embed(self.config.negative_prompt)

    def condition(self, frame: Tensor) -> dict[str, Tensor]:
        """What is known of a clip that starts with `frame`, uint8 [3,Y,X]; float32 tensors [1, ...] by name.

        A policy that holds the first latent frame gives it as "condition" [1,C,1,H,W]; other names begin with
        "condition_" and reach `denoise`.
        """
        raise NotImplementedError  # only where takes_frames

    @property
    def holds(self) -> bool:
        """Whether the first latent frame is given and never moves; else the denoiser reads the frame."""
        return self.conditioned

    def route(self, module: Callable[..., Any], mixed: bool) -> Callable[..., Any]:
        """What `predict` calls for `module`; mixed: rows may be at different steps, here or elsewhere."""
        return module

    def lora_settings(self) -> list[dict[str, Any]]:
        """Keyword arguments of the stock `load_lora_weights`, for each call that opens an exported LoRA.

        The file is named because older diffusers look for it on the hub otherwise.
        """
        return [{"weight_name": lora.FILES[0]}]

    def shared_tokens(self) -> Tokens | None:
        """The tokens that ranks can share (engine.sequence_parallel) by the plan of the denoiser's class.

        None where it has no plan, or one that does not train as one rank does.
        """
        return None

    def trained_module(self) -> nn.Module:
        """What is trained, in one module: the denoiser, or one that holds several (see `denoisers`)."""
        module: nn.Module = getattr(self.pipe, self.denoiser_name)
        return module

    def denoisers(self) -> dict[str, Any]:
        """Name in the pipeline -> denoiser, of all that are trained. Of several, a parameter of `module` has
        that name before it.
        """
        return {self.denoiser_name: self.module}

    @property
    def stock_name(self) -> str:
        """Class in diffusers that samples as this policy does; not always the checkpoint's."""
        return type(self.pipe).__name__

    def stock_module(self, pipe: Any) -> Callable[..., Any]:
        """What `predict` runs to get the output of the stock pipeline `pipe` instead of this policy's."""
        module: Callable[..., Any] = getattr(pipe, self.denoiser_name)
        return module

    def stock_scheduler(self, pipe: Any) -> Any:
        """The stock scheduler whose deterministic steps are ours; another than the checkpoint's for some."""
        return pipe.scheduler

    def call_settings(self) -> dict[str, Any]:
        """Keyword arguments of the stock pipeline's `__call__` under which it samples as this policy does.

        Without prompt, number of steps, latents and generator. The base class knows classifier-free guidance
        under the name guidance_scale; a family whose call has other names says so.
        """
        config = self.config
        settings: dict[str, Any] = {
            "height": config.height,
            "width": config.width,
            "guidance_scale": config.cfg,
        }
        if config.cfg > 1 and config.negative_prompt:
            settings["negative_prompt"] = config.negative_prompt
        if config.max_tokens is not None:
            settings["max_sequence_length"] = config.max_tokens
        if self._makes_clips:
            settings["num_frames"] = config.frames
        return settings

    def guide(self, negative: Tensor, out: Tensor, time: Tensor) -> Tensor:
        """Classifier-free guidance: from the two branches, [B,C,F,H,W] each, at model time [B], the output
        that is sampled.
        """
        return negative + self.config.cfg * (out - negative)

    def stock_latents(self, x: Tensor) -> Tensor:
        """Our latents [B,C,F,H,W] in the form that the stock call takes as `latents`."""
        return x if self._makes_clips else x.squeeze(2)

    def stock_output(self, x: Tensor) -> Tensor:
        """Our latents in the form that the stock call returns for output_type="latent"."""
        return self.stock_latents(x)

    # What follows from it.

    @property
    def _makes_clips(self) -> bool:
        return "num_frames" in inspect.signature(type(self.pipe).__call__).parameters

    @property
    def conditioned(self) -> bool:
        """Whether every sample starts from a given frame."""
        return self.config.condition is Condition.first_frame

    @property
    def guided(self) -> bool:
        """Whether `predict` runs a second, negative branch; a family with embedded guidance says False."""
        return self.config.cfg > 1

    @property
    def guidance(self) -> float:
        """The guidance scale that the denoiser takes, where it takes one."""
        return self.usual_guidance if self.config.guidance is None else self.config.guidance

    def check_guidance(self, like: str = "") -> None:
        """Refuse model.guidance for a checkpoint that takes none; like: another one, " (as ...)"."""
        config: Any = self.module.config
        if self.config.guidance is not None and not config.guidance_embeds:
            raise ValueError(
                f"model.guidance={self.config.guidance}: model.path={self.config.path} is told no guidance "
                f"scale{like}; type model.guidance=null"
            )

    def true_cfg(self) -> dict[str, Any]:
        """Classifier-free guidance for stock calls whose guidance_scale is another one."""
        # Only a negative prompt, even an empty one, makes stock run the second branch.
        negative = {"true_cfg_scale": self.config.cfg, "negative_prompt": self.config.negative_prompt}
        return negative if self.guided else {}

    @property
    def frame_rate(self) -> float:
        """Frames a second of the clips it makes. Raises ValueError where nobody says."""
        rate = self.fps if self.config.fps is None else self.config.fps
        if rate is None:
            raise ValueError(
                f"the frame rate of model.family={self.config.family} is not known; type model.fps=16"
            )
        return rate

    def by_denoiser(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Parameters of `module` by name -> for each of `denoisers`, its parameters by their names in it."""
        names = list(self.denoisers())
        if len(names) == 1:
            return {names[0]: dict(state)}
        return {
            name: {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            for name in names
        }
