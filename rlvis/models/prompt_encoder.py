"""Prompts into what a denoiser is conditioned on: each alone, from the disk where it was encoded before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial

import torch
from torch import Tensor

from rlvis.models.embed_cache import EmbedCache, identity
from rlvis.models.encoders import Encoders
from rlvis.models.family import Family

NEGATIVE = "negative_"
SHARED = "condition_"  # start of names of conditions from a frame: inputs of both branches of guidance
Embeds = dict[str, Tensor]


class PromptEncoder:
    """Encodes prompts by the `embed` of a family; encoders: those that are loaded when one is missing, None
    where the pipeline holds them all the time.
    """

    def __init__(self, policy: Family, encoders: Encoders | None) -> None:
        self.policy, self.encoders = policy, encoders

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
            rows = [self._embedded(text, encoding) for text in texts]
            embeds = {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
            if self.policy.guided:
                negative = self._embedded(self.policy.config.negative_prompt, encoding, negative=True)
                for name, value in negative.items():
                    embeds[NEGATIVE + name] = value.cpu().repeat(len(texts), *[1] * (value.ndim - 1))
        if frames is not None:
            known = [self.policy.condition(frame) for frame in frames]
            embeds |= {name: torch.cat([row[name] for row in known]).float().cpu() for name in known[0]}
        return embeds, sum(self.policy.truncated(text) for text in texts)

    def _embedded(self, text: str, encoding: ExitStack, *, negative: bool = False) -> dict[str, Tensor]:
        """The embedding of a prompt; encoders that wait for one come to the device until `encoding` ends."""
        make = self.policy.embed_negative if negative else partial(self.policy.embed, text)
        if self.cache is None or self.encoders is None:
            return make()
        waiting = self.encoders

        def woken() -> dict[str, Tensor]:
            if not waiting.working:
                encoding.enter_context(waiting.at_work())
            return make()

        return self.cache.get(text, woken, negative=negative)

    @cached_property
    def cache(self) -> EmbedCache | None:
        """Encoded prompts on the disk, where model.embed_cache names a folder."""
        config = self.policy.config
        if config.embed_cache is None:
            return None
        return EmbedCache(config.embed_cache, identity(config, self.policy.device, self.policy.text_encoders))

    def _check_frames(self, prompts: int, frames: Tensor | None) -> None:
        if frames is None and not self.policy.conditioned:
            return
        if frames is None:
            raise ValueError(
                "model.condition=first_frame starts every clip from a frame, and these prompts bring none; "
                "type data=shapes_i2v, or model.condition=none"
            )
        if not self.policy.conditioned:
            raise ValueError(
                "these prompts bring condition frames, and model.condition=none starts from noise alone; "
                "type model.condition=first_frame, or choose data without frames (data=shapes_video)"
            )
        wanted = (prompts, 3, self.policy.config.height, self.policy.config.width)
        if tuple(frames.shape) != wanted or frames.dtype != torch.uint8:
            raise ValueError(
                f"condition frames: wanted uint8 {list(wanted)}, got {frames.dtype} {list(frames.shape)}; "
                f"type model.height={frames.shape[-2]} model.width={frames.shape[-1]}, or resize the frames"
            )


def split(embeds: Mapping[str, Tensor]) -> tuple[Embeds, Embeds]:
    """What the prompt says, without the negative branch; and what both branches of guidance share."""
    shared = {name: value for name, value in embeds.items() if name.startswith(SHARED)}
    return {k: v for k, v in embeds.items() if not k.startswith(NEGATIVE) and k not in shared}, shared


def negative_of(embeds: Mapping[str, Tensor], cond: Mapping[str, Tensor], cfg: float) -> Embeds:
    """The negative branch under the names of `cond`. Raises ValueError when it was not encoded."""
    missing = [NEGATIVE + name for name in cond if NEGATIVE + name not in embeds]
    if missing:
        raise ValueError(
            f"model.cfg={cfg} needs {', '.join(missing)}, but the embeddings hold only "
            f"{', '.join(embeds)}: they were encoded with model.cfg=1, encode them again"
        )
    return {name: embeds[NEGATIVE + name] for name in cond}
