"""A LoRA for ComfyUI, beside the file for diffusers: the same weights under ComfyUI's names.

ComfyUI knows a denoiser's layers by the names of its own module, and skips others with a line in its
console. It holds some of our layers as one: query, key and value, whose LoRA there has the sum of their
ranks, and blocks in B. A family says in `comfy_names` where its layers are; a file has all of them or is not
written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlvis.models.lora import A, B

FILES = ("comfyui.safetensors", "comfyui_2.safetensors")  # of a second denoiser


@dataclass(frozen=True)
class Names:
    """Where ComfyUI keeps the layers of a denoiser.

    layers: name there -> ours, or those of ours that are one there, first rows first; `*` is a number.
    prefix: before the names there. underscores: kohya's form of them, which ComfyUI takes for UNets.
    """

    layers: Mapping[str, str | tuple[str, ...]]
    prefix: str = "diffusion_model."
    underscores: bool = False

    def find(self, layer: str) -> tuple[str, tuple[str, ...]] | None:
        """(name there, all of our layers that are in it) of one of our layers; None without a place."""
        for there, ours in self.layers.items():
            parts = (ours,) if isinstance(ours, str) else ours
            for part in parts:
                if match := re.fullmatch(re.escape(part).replace(r"\*", r"(\d+)"), layer):
                    numbers = match.groups()
                    return _filled(there, numbers), tuple(_filled(other, numbers) for other in parts)
        return None


FEED_FORWARD = ("net.0.proj", "net.2")


def same(*layers: str) -> dict[str, str]:
    """Layers that have one name in both."""
    return {layer: layer for layer in layers}


def text_attention(block: str) -> list[str]:
    """The layers of a block that attends to itself, then to the text."""
    attention = [f"{block}.{a}.{x}" for a in ("attn1", "attn2") for x in ("to_k", "to_out.0", "to_q", "to_v")]
    return attention + [f"{block}.ff.{layer}" for layer in FEED_FORWARD]


def double_stream(into: str, out: str) -> dict[str, str | tuple[str, ...]]:
    """FLUX's blocks of two streams in its first release's names; into, out: layers of our feed-forward."""
    block = "transformer_blocks.*"
    return {
        "double_blocks.*.img_attn.qkv": tuple(f"{block}.attn.to_{x}" for x in "qkv"),
        "double_blocks.*.img_attn.proj": f"{block}.attn.to_out.0",
        "double_blocks.*.img_mlp.0": f"{block}.ff.{into}",
        "double_blocks.*.img_mlp.2": f"{block}.ff.{out}",
        "double_blocks.*.txt_attn.qkv": tuple(f"{block}.attn.add_{x}_proj" for x in "qkv"),
        "double_blocks.*.txt_attn.proj": f"{block}.attn.to_add_out",
        "double_blocks.*.txt_mlp.0": f"{block}.ff_context.{into}",
        "double_blocks.*.txt_mlp.2": f"{block}.ff_context.{out}",
    }


def named(names: Names, factors: Mapping[str, Tensor], rows: Callable[[str], int]) -> dict[str, Tensor]:
    """`factors` (see `lora.exported`) under ComfyUI's names, with alpha = rank.

    rows: number of outputs of one of our layers.

    Raises:
        LookupError: a layer has no place there; the message is a part of a sentence.
    """
    layers = [name.removesuffix(A) for name in factors if name.endswith(A)]
    found = {layer: names.find(layer) for layer in layers}
    lost = [layer for layer, place in found.items() if place is None]
    if lost:
        raise LookupError(
            f"{len(lost)} of its {len(layers)} layers have no known place there, the first is {lost[0]}"
        )
    result = {}
    for there, parts in dict.fromkeys(place for place in found.values() if place is not None):
        both = ".lora_down.weight", ".lora_up.weight"
        down, up = both if names.underscores else (A, B)
        stem = names.prefix + (there.replace(".", "_") if names.underscores else there)
        result[stem + down], result[stem + up] = _joined(parts, factors, rows)
    return result


def write(
    names: Names | None, denoisers: Mapping[Path, tuple[Mapping[str, Tensor], Callable[[str], int]]]
) -> str:
    """Write file -> (factors, rows) of each denoiser, see `named`; "" when done, else why there is none."""
    from safetensors.torch import save_file

    for file in denoisers:
        file.unlink(missing_ok=True)  # of an export before this one
    if names is None:
        return "the names that ComfyUI has for its layers are not known"
    try:
        files = {file: named(names, *denoiser) for file, denoiser in denoisers.items()}
    except LookupError as error:
        return str(error)
    for file, tensors in files.items():
        save_file({name: value.contiguous() for name, value in tensors.items()}, file, {"format": "pt"})
    return ""


def _joined(
    parts: tuple[str, ...], factors: Mapping[str, Tensor], rows: Callable[[str], int]
) -> tuple[Tensor, Tensor]:
    """A and B of one layer there; parts without a LoRA have rows of zeros in B."""
    if len(parts) == 1:
        return factors[parts[0] + A], factors[parts[0] + B]
    here = [part for part in parts if part + A in factors]
    whole: Tensor = torch.block_diag(*(factors[part + B] for part in here))  # type: ignore[no-untyped-call]
    blocks = torch.split(whole, [rows(part) for part in here])
    written = dict(zip(here, blocks, strict=True))
    empty = blocks[0][:1]
    up = [written.get(part, torch.zeros_like(empty).expand(rows(part), -1)) for part in parts]
    return torch.cat([factors[part + A] for part in here]), torch.cat(up)


def _filled(pattern: str, numbers: tuple[str, ...]) -> str:
    rest = iter(numbers)
    return re.sub(r"\*", lambda _: next(rest), pattern)
