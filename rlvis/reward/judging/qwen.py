"""Qwen2-VL as the trunk of a judge: from pictures or clips as tensors to hidden states at special tokens.

Unusual, and on purpose: positions simply count the tokens. The judges here were trained by code that never
passed on Qwen2-VL's positions in space and time, so that is what their weights expect.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvis.reward import hub, weights
from rlvis.reward.judging.templates import PLACE

log = logging.getLogger(__name__)

FILES = ("*.json", "*.txt", "*.jinja")  # of the base model: its configuration and processor, no weights
HEAD = "rm_head."
PEFT = "base_model.model."


class Trunk:
    """A Qwen2-VL without its language head, on a device, and the processor of its base.

    Args: base, revision, folder or repository with configuration and processor of the Qwen2-VL that was
    tuned; state, the trunk's tensors as `split` names them; tokens, special tokens that the judge added;
    template, its instruction; device; precision; who, the scorer in error messages.
    Raises ValueError when the base cannot be had, or the tensors are not exactly those of such a model.
    """

    def __init__(
        self,
        base: str,
        revision: str | None,
        state: dict[str, Tensor],
        tokens: Sequence[str],
        template: str,
        device: torch.device,
        precision: str,
        who: str,
    ) -> None:
        from transformers import Qwen2VLModel

        place = weights.folder(base, revision, FILES)
        self.processor, config = weights.processor(place, f"{who}: base={base}")
        if config.model_type != "qwen2_vl":
            raise ValueError(
                f"{who}: base={base} is a {config.model_type}; wanted the Qwen2-VL that was tuned"
            )
        tokenizer = self.processor.tokenizer
        tokenizer.add_tokens(list(tokens), special_tokens=True)
        self.tokens: list[int] = tokenizer.convert_tokens_to_ids(list(tokens))
        words = state["language_model.embed_tokens.weight"].shape[0]
        if words <= max(self.tokens):
            raise ValueError(
                f"{who}: its weights know {words} tokens and base={base} has {len(tokenizer)} with "
                f"{', '.join(tokens)}; base must be the model that was tuned"
            )
        config.text_config.vocab_size = words
        self.model = _fill(Qwen2VLModel, config, state, precision, who).to(device)
        self.device, self.template, self.who = device, template, who
        self.reserved = tuple(tokenizer.get_added_vocab())

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return int(self.model.config.text_config.hidden_size)

    def text(self, prompt: str) -> str:
        """The instruction with the prompt. Raises ValueError for a prompt that would write special tokens."""
        special = next((token for token in self.reserved if token in prompt), None)
        if special is not None:
            raise ValueError(f"{self.who}: the prompt {prompt[:60]!r} contains the special token {special}")
        return self.template.replace(PLACE, prompt)

    def readable(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts that `text` takes; the others are logged, and their samples invalid."""
        good: list[int] = []
        fault = ""
        for i, prompt in enumerate(prompts):
            try:
                self.text(prompt)
                good.append(i)
            except ValueError as error:
                fault = fault or str(error)
        if fault:
            log.warning("%d of %d samples are invalid: %s", len(prompts) - len(good), len(prompts), fault)
        return good

    @torch.no_grad()
    def hidden(self, prompts: Sequence[str], kind: str, media: Sequence[Tensor]) -> Tensor:
        """States at the judge's tokens: float32 [n, tokens, width].

        Args: kind, "image" or "video"; media, of each prompt, levels uint8 [3, y, x] or [M, 3, y, x], already
        at the size that the judge reads (see fit).
        """
        inputs = {k: v.to(self.device) for k, v in self.inputs(prompts, kind, media).items()}
        ids = inputs["input_ids"]
        positions = torch.arange(ids.shape[1], device=self.device).expand(3, *ids.shape)
        states = self.model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
        where = torch.stack([(ids == token).int().argmax(1) for token in self.tokens], dim=1)
        picked: Tensor = states.gather(1, where[..., None].expand(-1, -1, states.shape[-1]))
        return picked.float()

    def inputs(self, prompts: Sequence[str], kind: str, media: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the model reads, on the CPU: ids, mask, patches and their grid. Arguments as for hidden."""
        chats = [
            [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": self.text(prompt)}]}]
            for prompt in prompts
        ]
        texts = self.processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        # Sizes are the judge's and not those of the processor.
        options = {f"{kind}s": list(media), f"{kind}s_kwargs": {"do_resize": False}}
        inputs = self.processor(text=texts, padding=True, return_tensors="pt", **options)
        return {key: value for key, value in inputs.items() if key != "mm_token_type_ids"}


def fit(high: int, wide: int, least: int, most: int) -> tuple[int, int]:
    """Size (y, x) in multiples of 28 with `least` to `most` pixels, about as high to wide."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    y, x = smart_resize(max(high, 14), max(wide, 14), factor=28, min_pixels=least, max_pixels=most)
    return y, x


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A published state dict as (trunk, head): names of the trunk as Qwen2VLModel has them today, of the head
    without its prefix. The old layout (visual, model), today's (model.visual, model.language_model) and
    PEFT's prefix are understood; the language head is left out.
    """
    trunk: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, value in state.items():
        short = name.removeprefix(PEFT)
        if short.startswith(HEAD):
            head[short.removeprefix(HEAD)] = value
        elif not short.startswith("lm_head."):
            inner = short.removeprefix("model.")
            new = inner.startswith(("visual.", "language_model."))
            trunk[inner if new else f"language_model.{inner}"] = value
    return trunk, head


def merge(state: Mapping[str, Tensor], rank: int, alpha: float, rslora: bool = False) -> dict[str, Tensor]:
    """LoRA of PEFT's layout added to its weights: W + s B A in float32, s = alpha / rank (rslora: / sqrt
    rank).

    A state without LoRA comes back as it is. Raises ValueError when a factor has another rank or no partner.
    """
    merged = {k.replace(".base_layer.", "."): v for k, v in state.items() if ".lora_" not in k}
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    for key, down in state.items():
        if ".lora_A." not in key:
            continue
        up = state.get(key.replace(".lora_A.", ".lora_B."))
        name = key.partition(".lora_A.")[0] + ".weight"
        if up is None or name not in merged or down.shape[0] != rank:
            raise ValueError(f"{key} {list(down.shape)}: no partner, no weight, or a rank other than {rank}")
        weight = merged[name]
        merged[name] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
    return merged


def _fill(kind: Any, config: Any, state: dict[str, Tensor], precision: str, who: str) -> Any:
    """A frozen model of class `kind` with exactly these tensors."""
    weights.quiet()
    try:
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=weights.dtype(precision),
            output_loading_info=True,
        )
    except RuntimeError as error:  # another shape
        raise ValueError(f"{who}: its weights do not fit the base: {hub.line(error)}") from error
    for what in ("missing", "unexpected"):
        names = sorted(report[f"{what}_keys"])
        if names:
            raise ValueError(f"{who}: its weights do not fit the base: {len(names)} {what}, first {names[0]}")
    return model.eval().requires_grad_(False)


def newest(folder: Path, pattern: str) -> Path | None:
    """The file that matches `checkpoint-*/NAME` with the highest number; None without any."""
    files = [path for path in folder.glob(pattern) if path.parent.name.rpartition("-")[2].isdecimal()]
    return max(files, key=lambda path: int(path.parent.name.rpartition("-")[2]), default=None)
