"""What a script writes: stock pipelines, and the card beside them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pretraining.command import ROOT

CARDS = Path(__file__).parent / "cards"


def save_pipeline(pipe: Any, out: Path) -> None:
    """Write a stock diffusers pipeline."""
    for part in pipe.components.values():
        if hasattr(part, "backend_tokenizer"):
            # A call leaves its padding in the tokenizer, and saving would keep it.
            part.backend_tokenizer.no_padding()
            part.backend_tokenizer.no_truncation()
    pipe.save_pretrained(out, safe_serialization=True)
    make_readable(out)


def make_readable(folder: Path) -> None:
    """Weights are written readable by their owner only, which an installed package must not be."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def write_card(template: str, args: argparse.Namespace, networks: Iterable[Any], **values: Any) -> None:
    """README.md of args.out, from cards/TEMPLATE.md.

    There {args.KEY} is a flag, {parameters} are the networks' in millions, {megabytes} all files together.
    """
    used = [network for network in networks if isinstance(network, nn.Module)]
    values["parameters"] = sum(p.numel() for network in used for p in network.parameters()) / 1e6
    sizes = [path.stat().st_size for path in args.out.rglob("*") if path.is_file()]
    text = (CARDS / f"{template}.md").read_text(encoding="ascii")
    card = text.format(args=args, megabytes=sum(sizes) / 1e6, **values)
    (args.out / "README.md").write_text(card, encoding="utf-8")


def row(*cells: object) -> str:
    """A row of a markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def listed(means: Mapping[str, float], form: str = ".4g") -> str:
    """Names and numbers, in one sentence."""
    return ", ".join(f"{name} {value:{form}}" for name, value in means.items())


def options(**values: Any) -> str:
    """Flags as one types them, each after a blank; those that are None are left out, pairs are two words."""
    words = []
    for name, value in values.items():
        if value is not None:
            text = " ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
            words.append(f" --{name.replace('_', '-')} {text}")
    return "".join(words)


def shown(path: Path) -> Path:
    """The path as seen from the repository."""
    inside = path.resolve().is_relative_to(ROOT)
    return path.resolve().relative_to(ROOT) if inside else path
