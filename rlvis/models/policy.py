"""A diffusers pipeline as a policy: encode prompts, predict one denoiser output, decode to pixels.

A family is one file in families/: a subclass of `Policy` that writes the hooks of `family.Family`. Everything
else is here and shared: loading by the stock pipeline's `from_pretrained`, freezing, LoRA, the reference
policy, both branches of classifier-free guidance (Ho and Salimans 2022), decoding in chunks, export.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.findings import ConfigError
from rlvis.flow import transition
from rlvis.flow.transition import StepTable, Transition
from rlvis.models import comfy, decoding, export, loading, lora, options, source
from rlvis.models.embed_cache import EmbedCache
from rlvis.models.encoders import Encoders
from rlvis.models.family import Family
from rlvis.models.moved import Start
from rlvis.models.prompt_encoder import PromptEncoder, negative_of, split
from rlvis.schema import CfgGrad, ModelConfig

GIVEN = "condition"  # among the embeds: latents [P,C,1,H,W] of the condition frames, no input of the denoiser
DECODE_PIXELS = 2**20  # decoded at once: 16 images of 256 x 256, or 1 of 1024 x 1024


class Policy(Family):
    """What the stages know of a generator.

    module: the denoiser that is trained. latent_shape: (C, F, H, W) of one sample at the configured size.
    prediction: what `predict` returns, "flow" (eps - x0) | "epsilon" | "v_prediction" | "sample".
    dtype: of the frozen weights and of the forward pass; LoRA weights and the autoencoder are float32.
    """

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
        if wrong := list(options.errors(type(self), config)):
            raise ConfigError(*wrong)
        self.config = config
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        names = (self.pipeline_name, *self.also_opens)
        waiting = self.text_encoders if config.embed_cache else ()
        self.pipe: Any = source.open_pipeline(
            names,
            config.path,
            config.revision,
            self.dtype,
            self.accept,
            self.unused + waiting,
            shapes=self.device.type == "meta",  # for plan=true
        )
        self._encoders = Encoders(self.pipe, config, waiting, self.device) if waiting else None
        self._prompts = PromptEncoder(self, self._encoders)
        decoding.set_up(getattr(self.pipe, "vae", None), config, self.decode_rows)
        self.module: nn.Module = self.trained_module()
        self.latent_shape: tuple[int, int, int, int] = self.geometry()
        self.given = self.free.to(self.device) == 0  # [F, H, W], False everywhere without a condition
        for component in self.pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval().to(self.device)
        loading.require_finite(self.pipe, config.path)
        self._frozen: nn.Module | None = None
        self._reference = False
        if config.lora is not None:
            for number, denoiser in enumerate(self.denoisers().values()):
                lora.inject(denoiser, config.lora, self.lora_targets, seed + number)
        else:
            self._frozen = copy.deepcopy(self.module) if keep_reference else None
            self.module.requires_grad_(True)
        self.beginning = Start(self.denoisers().values(), self.trainable())
        if config.gradient_checkpointing:
            for denoiser in self.denoisers().values():
                denoiser.enable_gradient_checkpointing()

    def at(self, config: ModelConfig) -> Policy:
        """The same weights at another size and guidance: height, width, frames, cfg, cfg_2, guidance of
        `config`, whose other keys are those of this one. Nothing is loaded or copied; training goes on
        with this one.

        Raises ValueError for a size that the model cannot make.
        """
        if config == self.config:
            return self
        other = copy.copy(self)
        other.config = config
        other._prompts = PromptEncoder(other, self._encoders)
        other.latent_shape = other.geometry()
        other.given = other.free.to(self.device) == 0
        return other

    @property
    def copies(self) -> list[nn.Module]:
        """What `predict` may run: the module, and the frozen copy of it where one is kept."""
        return [self.module] if self._frozen is None else [self.module, self._frozen]

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
        """`flow.transition.transition`, with a mean that leaves given positions where they are.

        Add noise by `hold` as well. A recorded state then equals its mean there, under any weights, so these
        positions have a log-ratio of exactly 0 and carry no gradient.
        """
        mean, std = transition.transition(table, step, stochastic, x, out)
        return Transition(mean=self.hold(mean, x), std=std)

    def encode(self, texts: Sequence[str], frames: Tensor | None = None) -> tuple[dict[str, Tensor], int]:
        """Text conditions, each [P, ...] on the CPU, and how many of the P prompts were truncated; see
        `prompt_encoder.PromptEncoder.encode`.
        """
        return self._prompts.encode(texts, frames)

    @property
    def embed_cache(self) -> EmbedCache | None:
        """Encoded prompts on the disk, where model.embed_cache names a folder."""
        return self._prompts.cache

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
        module = self.route(self._frozen if self._reference and self._frozen is not None else module, mixed)
        x = x.to(self.device, self.dtype)
        time = time.to(self.device, torch.float32)
        embeds = {
            k: v.to(self.device, self.dtype if v.is_floating_point() else v.dtype)
            for k, v in embeds.items()
            if k != GIVEN  # the states hold it already
        }
        cond, shared = split(embeds)
        if not self.guided:
            return self.denoise(module, x, time, cond | shared).float()
        negative = negative_of(embeds, cond, self.config.cfg)
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
        media = []
        for chunk in torch.split(latents, rows):
            padding = chunk[-1:].expand(rows - chunk.shape[0], *chunk.shape[1:])
            frames = self.decode_chunk(torch.cat([chunk, padding]).to(self.device, torch.float32))
            media.append((frames[: chunk.shape[0]].float() * 255).round().to(torch.uint8).cpu())
        return torch.cat(media)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that is trained, in a fixed order."""
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def export(self, folder: Path | str, weights: Mapping[str, Tensor] | None = None) -> float:
        """Write what stock diffusers opens: a LoRA (`load_lora_weights`), and one for ComfyUI, or a pipeline
        (`from_pretrained`). Return how far the weights lie from where they began (see `moved`).

        weights: trained parameters by their names in `trainable()` (float32 masters, or an average); None
        takes the module's. Raises ValueError when names are missing or unknown.
        """
        whole = export.checked(self.trainable(), weights)
        states, folder = self.by_denoiser(whole), Path(folder)
        if self.config.lora is None:
            if self._encoders is not None:
                self._encoders.load()
            export.save_pipeline(self.pipe, states, folder)
            distance, lacking = self.beginning.of_weights(whole), ""
        else:
            factors = [
                lora.exported(denoiser, states[name], self.config.lora)
                for name, denoiser in self.denoisers().items()
            ]
            distance, lacking = self.beginning.of_lora(factors), self._save_lora(folder, factors)
        waiting = () if self._encoders is None else self._encoders.names
        export.write_card(self, folder, distance, waiting, lacking=lacking)
        return distance

    def load_lora(self, folder: Path) -> None:
        """Put an exported LoRA into the adapters. Raises ValueError when it is of other layers."""
        assert self.config.lora is not None, "only a policy with adapters takes a LoRA"
        for denoiser, file in zip(self.denoisers().values(), lora.FILES, strict=False):
            lora.load(denoiser, self.denoiser_name, folder / file, self.config.lora)

    def _save_lora(self, folder: Path, factors: Sequence[Mapping[str, Tensor]]) -> str:
        """Write `factors` of each denoiser; why there is none for ComfyUI, or ""."""
        folder.mkdir(parents=True, exist_ok=True)
        denoisers = self.denoisers().values()
        for denoiser, file, each in zip(denoisers, lora.FILES, factors, strict=False):
            lora.save(type(self.pipe), denoiser, self.denoiser_name, folder / file, each)
        beside = {
            folder / file: (each, partial(lora.outputs, denoiser))
            for denoiser, file, each in zip(denoisers, comfy.FILES, factors, strict=False)
        }
        return comfy.write(self.comfy_names, beside)

    def has(self, encoder: str) -> bool:
        """Whether the checkpoint has this text encoder, be it in memory or still on the disk."""
        here = getattr(self.pipe, encoder) is not None
        return here or (self._encoders is not None and encoder in self._encoders.names)
