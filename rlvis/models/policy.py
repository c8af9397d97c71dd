"""A diffusers pipeline seen as a policy: encode prompts, predict one denoiser output, decode to pixels.

A new family is one file with a subclass of `Policy` that sets the class attributes and writes the six
abstract methods (sd3.py is the example), and one line in load.py. Everything else is shared: loading by the
stock pipeline's own `from_pretrained`, freezing, LoRA, the reference policy, the two branches of
classifier-free guidance (Ho and Salimans 2022), decoding in chunks of one fixed size, export.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlvis.flow import kernels
from rlvis.flow.kernels import StepTable, Transition
from rlvis.models import export, lora, source
from rlvis.records import Schedule
from rlvis.schema import CfgGrad, Condition, ModelConfig

NEGATIVE = "negative_"
GIVEN = "condition"  # among the embeds: latents [P,C,1,H,W] of the condition frames, no input of the denoiser
DECODE_PIXELS = 2**20  # decoded at once: 16 images of 256 x 256, or 1 of 1024 x 1024


class Policy(ABC):
    """What the stages know of a generator.

    module: the denoiser that is trained. latent_shape: (C, F, H, W) of one sample at the configured size.
    prediction: what `predict` returns, "flow" (eps - x0) | "epsilon" | "v_prediction" | "sample".
    dtype: of the frozen weights and of the forward pass; LoRA weights and the autoencoder are float32.
    """

    pipeline_name: ClassVar[str]  # class in diffusers, also what model_index.json says
    also_opens: ClassVar[tuple[str, ...]] = ()  # other classes of equal parts that model_index.json may name
    denoiser_name: ClassVar[str] = "transformer"  # the pipeline's component that is trained
    prediction: ClassVar[str] = "flow"
    lora_targets: ClassVar[tuple[str, ...]]  # ends of module names, for model.lora.targets=null
    takes_frames: ClassVar[bool] = False  # whether it can start from a condition frame (then see `condition`)

    def __init__(
        self, config: ModelConfig, device: torch.device | str, *, keep_reference: bool = False, seed: int = 0
    ) -> None:
        """Load the pipeline of `config.path` and set it up for training.

        Args:
            keep_reference: with full fine-tuning, keep a frozen copy of the denoiser for `reference()` (a
                second set of its weights on the device); LoRA needs none.
            seed: of the LoRA initialisation.

        Raises:
            ValueError: path, family, size, guidance or LoRA settings that cannot work; the message says what
                to type.
        """
        if not config.cfg >= 1:
            raise ValueError(f"model.cfg must be at least 1 (1 is no guidance), got {config.cfg}")
        if config.condition is not Condition.none and not self.takes_frames:
            raise ValueError(
                f"model.condition={config.condition.value}: model.family={config.family} starts from noise "
                "alone; type model.condition=none"
            )
        self.config = config
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, config.dtype.value)
        names = (self.pipeline_name, *self.also_opens)
        self.pipe: Any = source.open_pipeline(names, config.path, config.revision, self.dtype, self.accept)
        self.module: nn.Module = getattr(self.pipe, self.denoiser_name)
        self.latent_shape: tuple[int, int, int, int] = self.geometry()
        self.given = self.free.to(self.device) == 0  # [F, H, W], False everywhere without a condition
        for component in self.pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval().to(self.device)
        self._frozen: nn.Module | None = None
        self._reference = False
        if config.lora is not None:
            lora.inject(self.module, config.lora, self.lora_targets, seed)
        else:
            self._frozen = copy.deepcopy(self.module) if keep_reference else None
            self.module.requires_grad_(True)
        if config.gradient_checkpointing:
            self.module.enable_gradient_checkpointing()

    # What a family writes.

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

    # What a family may write.

    def accept(self, index: Mapping[str, Any]) -> None:
        """Refuse, with a ValueError, a variant that model_index.json shows to be another model."""
        return

    def condition(self, frame: Tensor) -> Tensor:
        """The first latent frame [1,C,1,H,W] float32 of a clip that starts with `frame`, uint8 [3,Y,X]."""
        raise NotImplementedError  # only where takes_frames

    # What all families share.

    @property
    def conditioned(self) -> bool:
        """Whether every sample starts from a given frame."""
        return self.config.condition is Condition.first_frame

    @property
    def guided(self) -> bool:
        """Whether `predict` runs a second, negative branch; a family with embedded guidance says False."""
        return self.config.cfg > 1

    @property
    def free(self) -> Tensor:
        """[F, H, W] float32: 1 where the policy moves the latent, 0 where it is given (condition frames)."""
        free = torch.ones(self.latent_shape[1:])
        if self.conditioned:
            free[0] = 0
        return free

    def start(self, noise: Tensor, embeds: Mapping[str, Tensor]) -> Tensor:
        """Noise [B,C,F,H,W] with the given positions, if there are any, set to the condition: where sampling
        starts, and where every state agrees with it for good.
        """
        return torch.where(self.given, embeds[GIVEN].to(noise), noise) if self.conditioned else noise

    def hold(self, moved: Tensor, before: Tensor) -> Tensor:
        """`moved` [B,C,F,H,W] where the policy moves the latent, `before` where it is given; without gradient
        there.
        """
        return torch.where(self.given, before.to(moved.dtype), moved) if self.conditioned else moved

    def transition(
        self, table: StepTable, step: Tensor, stochastic: Tensor, x: Tensor, out: Tensor
    ) -> Transition:
        """`flow.kernels.transition`, with a mean that leaves given positions where they are.

        Add noise by `hold` as well. A recorded state then equals its mean there, under any weights, so these
        positions have a log-ratio of exactly 0 and carry no gradient.
        """
        mean, std = kernels.transition(table, step, stochastic, x, out)
        return Transition(mean=self.hold(mean, x), std=std)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], frames: Tensor | None = None) -> tuple[dict[str, Tensor], int]:
        """Text conditions, each [P, ...] on the CPU, and how many of the P prompts were truncated.

        frames: uint8 [P,3,Y,X], the condition frames of a policy that starts from one; None for others. Their
        latents stand under "condition". With guidance, every other name also stands there as "negative_" +
        name. Prompts are encoded one at a time, so that an embedding never depends on the prompts that came
        with it or on the number of processes.

        Raises ValueError when there are no prompts, or frames do not fit the policy.
        """
        if not texts:
            raise ValueError("no prompts to encode")
        self._check_frames(len(texts), frames)
        made = [self.embed(text) for text in texts]
        embeds = {name: torch.cat([row[name] for row in made]).cpu() for name in made[0]}
        if self.guided:
            for name, value in self.embed(self.config.negative_prompt).items():
                embeds[NEGATIVE + name] = value.cpu().repeat(len(texts), *[1] * (value.ndim - 1))
        if frames is not None:
            embeds[GIVEN] = torch.cat([self.condition(frame).float().cpu() for frame in frames])
        return embeds, sum(self.truncated(text) for text in texts)

    def _check_frames(self, prompts: int, frames: Tensor | None) -> None:
        if frames is None and not self.conditioned:
            return
        if frames is None:
            raise ValueError(
                "model.condition=first_frame starts every clip from a frame, and these prompts bring none; "
                "type data=shapes_i2v, or model.condition=none"
            )
        if not self.conditioned:
            raise ValueError(
                "these prompts bring condition frames, and model.condition=none starts from noise alone; "
                "type model.condition=first_frame, or choose data without frames (data=shapes_video)"
            )
        wanted = (prompts, 3, self.config.height, self.config.width)
        if tuple(frames.shape) != wanted or frames.dtype != torch.uint8:
            raise ValueError(
                f"condition frames: wanted uint8 {list(wanted)}, got {frames.dtype} {list(frames.shape)}; "
                f"type model.height={frames.shape[-2]} model.width={frames.shape[-1]}, or resize the frames"
            )

    def predict(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """The guided model output for states x [B,C,F,H,W] at model time [B], as float32 [B,C,F,H,W].

        module is the callable to run: `self.module`, or the engine around it. Guidance is
        uncond + cfg (cond - uncond), in the stock pipeline's dtype and order. cfg_grad=both runs one batch of
        2B rows; conditional runs the uncond branch alone and without a gradient, in rollout and update alike,
        since equal batch shapes keep the first ratio at 1.

        Raises ValueError when guidance is on and embeds hold no negative prompt.
        """
        if self._reference and self._frozen is not None:
            module = self._frozen
        x = x.to(self.device, self.dtype)
        time = time.to(self.device, torch.float32)
        embeds = {
            k: v.to(self.device, self.dtype if v.is_floating_point() else v.dtype)
            for k, v in embeds.items()
            if k != GIVEN  # the states hold it already
        }
        cond = {name: value for name, value in embeds.items() if not name.startswith(NEGATIVE)}
        if not self.guided:
            return self.denoise(module, x, time, cond).float()
        missing = [NEGATIVE + name for name in cond if NEGATIVE + name not in embeds]
        if missing:
            raise ValueError(
                f"model.cfg={self.config.cfg} needs {', '.join(missing)}, but the embeddings hold only "
                f"{', '.join(embeds)}: they were encoded with model.cfg=1, encode them again"
            )
        negative = {name: embeds[NEGATIVE + name] for name in cond}
        if self.config.cfg_grad is CfgGrad.conditional:
            with torch.no_grad():
                out_negative = self.denoise(module, x, time, negative)
            out = self.denoise(module, x, time, cond)
        else:
            both = {name: torch.cat([negative[name], cond[name]]) for name in cond}
            twice = self.denoise(module, torch.cat([x, x]), torch.cat([time, time]), both)
            out_negative, out = twice.chunk(2)
        return (out_negative + self.config.cfg * (out - out_negative)).float()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside it `predict` gives the policy before training, without gradients.

        LoRA: the adapters are off, also inside an engine, which wraps the same module. Full fine-tuning: the
        frozen copy runs instead of `module`. Raises ValueError when there is none.
        """
        if self.config.lora is None and self._frozen is None:
            raise ValueError(
                "a KL term under full fine-tuning needs a frozen copy of the policy, and none was kept: load "
                "it with keep_reference=True, type advantage.kl_beta=0, or train a LoRA (model.lora.rank=32)"
            )
        assert not self._reference, "reference() is already active"
        self._reference = True
        module: Any = self.module
        if self.config.lora is not None:
            module.disable_adapters()
        try:
            with torch.no_grad():
                yield
        finally:
            self._reference = False
            if self.config.lora is not None:
                module.enable_adapters()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,C,F,H,W] -> RGB uint8 [B,M,3,Y,X] on the CPU, rounded to nearest as PIL output is.

        Chunks all have one size (the last is padded and cut), because kernels may differ in the last bit
        between batch sizes and a picture must not depend on how many rows its process owns.
        """
        rows = max(1, min(16, DECODE_PIXELS // (self.config.height * self.config.width * self.config.frames)))
        made = []
        for chunk in torch.split(latents, rows):
            padding = chunk[-1:].expand(rows - chunk.shape[0], *chunk.shape[1:])
            frames = self.decode_chunk(torch.cat([chunk, padding]).to(self.device, torch.float32))
            made.append((frames[: chunk.shape[0]].float() * 255).round().to(torch.uint8).cpu())
        return torch.cat(made)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that is trained, in a fixed order."""
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def export(self, folder: Path | str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write what stock diffusers opens: a LoRA (`load_lora_weights`) or a pipeline (`from_pretrained`).

        weights: trained parameters by their names in `trainable()` (float32 masters, or an average); None
        takes the module's own. Raises ValueError when names are missing or unknown.
        """
        state = export.checked(self.trainable(), weights)
        if self.config.lora is not None:
            lora.save(type(self.pipe), self.module, self.denoiser_name, Path(folder), state)
        else:
            export.save_pipeline(self.pipe, self.denoiser_name, Path(folder), state)
        export.write_card(Path(folder), self.pipe, self.config)
