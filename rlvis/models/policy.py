"""A diffusers pipeline seen as a policy: encode prompts, predict one denoiser output, decode to pixels.

A new family is one file with a subclass of `Policy` that sets the class attributes and writes the six
abstract methods (sd3.py is the example), and one line in load.py. Everything else is shared: loading by the
stock pipeline's own `from_pretrained`, freezing, LoRA, the reference policy, the two branches of
classifier-free guidance (Ho and Salimans 2022), decoding in chunks of one fixed size, export.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlvis.flow import kernels
from rlvis.flow.kernels import StepTable, Transition
from rlvis.models import decoding, encoders, export, lora, source
from rlvis.models.embed_cache import EmbedCache, identity
from rlvis.models.encoders import Encoders
from rlvis.models.sizes import Tokens
from rlvis.records import Schedule
from rlvis.schema import CfgGrad, Condition, ModelConfig

NEGATIVE = "negative_"
GIVEN = "condition"  # among the embeds: latents [P,C,1,H,W] of the condition frames, no input of the denoiser
SHARED = "condition_"  # start of names of other conditions from a frame: inputs of both branches of guidance
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
    prediction: str = "flow"
    lora_targets: tuple[str, ...]  # ends of module names, for model.lora.targets=null
    takes_frames: ClassVar[bool] = False  # whether it can start from a condition frame (then see `condition`)
    takes_guidance: ClassVar[bool] = False  # whether the denoiser is told a guidance scale (model.guidance)
    takes_cfg_2: ClassVar[bool] = False  # whether a second expert may have its own guidance (model.cfg_2)
    fps: ClassVar[float | None] = None  # frames a second at which its clips are to be played
    unused: ClassVar[tuple[str, ...]] = ()  # optional components that sampling never calls: not loaded

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
        self._check_options(config)
        self.config = config
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, config.dtype.value)
        names = (self.pipeline_name, *self.also_opens)
        self.pipe: Any = source.open_pipeline(
            names,
            config.path,
            config.revision,
            self.dtype,
            self.accept,
            self.unused + (encoders.NAMES if config.embed_cache else ()),
            shapes=self.device.type == "meta",  # for plan=true
        )
        self._encoders = Encoders(self.pipe, config, self.unused, self.device) if config.embed_cache else None
        decoding.set_up(getattr(self.pipe, "vae", None), config, self.decode_rows)
        self.module: nn.Module = self.trained_module()
        self.latent_shape: tuple[int, int, int, int] = self.geometry()
        self.given = self.free.to(self.device) == 0  # [F, H, W], False everywhere without a condition
        for component in self.pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval().to(self.device)
        self._frozen: nn.Module | None = None
        self._reference = False
        if config.lora is not None:
            for number, denoiser in enumerate(self.denoisers().values()):
                lora.inject(denoiser, config.lora, self.lora_targets, seed + number)
        else:
            self._frozen = copy.deepcopy(self.module) if keep_reference else None
            self.module.requires_grad_(True)
        if config.gradient_checkpointing:
            for denoiser in self.denoisers().values():
                denoiser.enable_gradient_checkpointing()

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
        that name before its own.
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

    # What all families share.

    @property
    def _makes_clips(self) -> bool:
        return "num_frames" in inspect.signature(type(self.pipe).__call__).parameters

    def _check_options(self, config: ModelConfig) -> None:
        """Refuse guidance and conditions that this family does not have."""
        family = f"model.family={config.family}"
        if not config.cfg >= 1:
            raise ValueError(f"model.cfg must be at least 1 (1 is no guidance), got {config.cfg}")
        if config.condition is not Condition.none and not self.takes_frames:
            raise ValueError(
                f"model.condition={config.condition.value}: {family} starts from noise alone; type "
                "model.condition=none"
            )
        if config.guidance is not None and not self.takes_guidance:
            raise ValueError(
                f"model.guidance={config.guidance}: the denoiser of {family} is not told a guidance scale; "
                "type model.guidance=null, and model.cfg=... for classifier-free guidance"
            )
        if config.guidance is not None and not config.guidance >= 0:
            raise ValueError(f"model.guidance must be at least 0, got {config.guidance}")
        if config.cfg_2 is not None and not self.takes_cfg_2:
            raise ValueError(
                f"model.cfg_2={config.cfg_2}: {family} has no second expert; type model.cfg_2=null"
            )

    @property
    def copies(self) -> list[nn.Module]:
        """What `predict` may run: the module, and the frozen copy of it where one is kept."""
        return [self.module] if self._frozen is None else [self.module, self._frozen]

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
        if self.holds:
            free[0] = 0
        return free

    def start(self, noise: Tensor, embeds: Mapping[str, Tensor]) -> Tensor:
        """Noise [B,C,F,H,W] with the given positions, if there are any, set to the condition: where sampling
        starts, and where every state agrees with it for good.
        """
        return torch.where(self.given, embeds[GIVEN].to(noise), noise) if self.holds else noise

    def hold(self, moved: Tensor, before: Tensor) -> Tensor:
        """`moved` [B,C,F,H,W] where the policy moves the latent, `before` where it is given; without gradient
        there.
        """
        return torch.where(self.given, before.to(moved.dtype), moved) if self.holds else moved

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

        frames: uint8 [P,3,Y,X], the condition frames of a policy that starts from one; None for others. What
        is known from them stands under names from "condition" on. With guidance, every other name also stands
        there as "negative_" + name. Prompts are encoded one at a time, so that an embedding never depends on
        the prompts that came with it or on the number of processes.

        Raises ValueError when there are no prompts, or frames do not fit the policy.
        """
        if not texts:
            raise ValueError("no prompts to encode")
        self._check_frames(len(texts), frames)
        with ExitStack() as encoding:
            made = [self._embedded(text, encoding) for text in texts]
            embeds = {name: torch.cat([row[name] for row in made]).cpu() for name in made[0]}
            if self.guided:
                negative = self._embedded(self.config.negative_prompt, encoding, negative=True)
                for name, value in negative.items():
                    embeds[NEGATIVE + name] = value.cpu().repeat(len(texts), *[1] * (value.ndim - 1))
        if frames is not None:
            known = [self.condition(frame) for frame in frames]
            embeds |= {name: torch.cat([row[name] for row in known]).float().cpu() for name in known[0]}
        return embeds, sum(self.truncated(text) for text in texts)

    def _embedded(self, text: str, encoding: ExitStack, *, negative: bool = False) -> dict[str, Tensor]:
        """The embedding of a prompt; encoders that wait for one come to the device until `encoding` ends."""
        make = self.embed_negative if negative else partial(self.embed, text)
        if self.embed_cache is None or self._encoders is None:
            return make()
        waiting = self._encoders

        def woken() -> dict[str, Tensor]:
            if not waiting.working:
                encoding.enter_context(waiting.at_work())
            return make()

        return self.embed_cache.get(text, woken, negative=negative)

    @cached_property
    def embed_cache(self) -> EmbedCache | None:
        """Encoded prompts on the disk, where model.embed_cache names a folder."""
        folder = self.config.embed_cache
        return None if folder is None else EmbedCache(folder, identity(self.config, self.device))

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
        self,
        module: Callable[..., Any],
        x: Tensor,
        time: Tensor,
        embeds: Mapping[str, Tensor],
        *,
        mixed: bool = False,
    ) -> Tensor:
        """The guided model output for states x [B,C,F,H,W] at model time [B], as float32 [B,C,F,H,W].

        module is the callable to run: `self.module`, or the engine around it. mixed: rows may be at different
        steps, here or on other ranks, which a family with several denoisers needs to know. Guidance is
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
        shared = {name: value for name, value in embeds.items() if name.startswith(SHARED)}
        cond = {k: v for k, v in embeds.items() if not k.startswith(NEGATIVE) and k not in shared}
        if not self.guided:
            return self.denoise(module, x, time, cond | shared).float()
        missing = [NEGATIVE + name for name in cond if NEGATIVE + name not in embeds]
        if missing:
            raise ValueError(
                f"model.cfg={self.config.cfg} needs {', '.join(missing)}, but the embeddings hold only "
                f"{', '.join(embeds)}: they were encoded with model.cfg=1, encode them again"
            )
        negative = {name: embeds[NEGATIVE + name] for name in cond}
        if self.config.cfg_grad is CfgGrad.conditional:
            with torch.no_grad():
                out_negative = self.denoise(module, x, time, negative | shared)
            out = self.denoise(module, x, time, cond | shared)
        else:
            both = {name: torch.cat([negative[name], cond[name]]) for name in cond}
            both |= {name: torch.cat([value, value]) for name, value in shared.items()}
            twice = self.denoise(module, torch.cat([x, x]), torch.cat([time, time]), both)
            out_negative, out = twice.chunk(2)
        return self.guide(out_negative, out, time).float()

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
        if self.config.lora is not None:
            for denoiser in self.denoisers().values():
                denoiser.disable_adapters()
        try:
            with torch.no_grad():
                yield
        finally:
            self._reference = False
            if self.config.lora is not None:
                for denoiser in self.denoisers().values():
                    denoiser.enable_adapters()

    @property
    def frame_rate(self) -> float:
        """Frames a second of the clips it makes. Raises ValueError where nobody says."""
        rate = self.fps if self.config.fps is None else self.config.fps
        if rate is None:
            raise ValueError(
                f"the frame rate of model.family={self.config.family} is not known; type model.fps=16"
            )
        return rate

    @property
    def decode_rows(self) -> int:
        """Samples decoded at once."""
        return max(1, min(16, DECODE_PIXELS // (self.config.height * self.config.width * self.config.frames)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,C,F,H,W] -> RGB uint8 [B,M,3,Y,X] on the CPU, rounded to nearest as PIL output is.

        Chunks all have one size (the last is padded and cut), because kernels may differ in the last bit
        between batch sizes and a picture must not depend on how many rows its process owns.
        """
        rows = self.decode_rows
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
        states = self.by_denoiser(export.checked(self.trainable(), weights))
        if self.config.lora is not None:
            for (name, denoiser), file in zip(self.denoisers().items(), lora.FILES, strict=False):
                lora.save(type(self.pipe), denoiser, self.denoiser_name, Path(folder) / file, states[name])
        else:
            if self._encoders is not None:
                self._encoders.load()
            export.save_pipeline(self.pipe, states, Path(folder))
        export.write_card(
            Path(folder),
            self.pipe,
            self.config,
            self.stock_name,
            self.call_settings(),
            self.lora_settings(),
            waiting=() if self._encoders is None else self._encoders.names,
        )

    def has(self, encoder: str) -> bool:
        """Whether the checkpoint has this text encoder, be it in memory or still on the disk."""
        here = getattr(self.pipe, encoder) is not None
        return here or (self._encoders is not None and encoder in self._encoders.names)

    def by_denoiser(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Parameters of `module` by name -> for each of `denoisers`, its own by their names in it."""
        names = list(self.denoisers())
        if len(names) == 1:
            return {names[0]: dict(state)}
        return {
            name: {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            for name in names
        }

    def lora_settings(self) -> list[dict[str, Any]]:
        """Keyword arguments of the stock `load_lora_weights`, for each call that opens an exported LoRA."""
        return [{}]
