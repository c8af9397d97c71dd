"""Prompts that are wrong in one word, as captions from the web are, and accuracies by kind of prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvis.data.world import language

# Words that take each other's place.
CLASSES: tuple[tuple[str, ...], ...] = (
    tuple(language.COLOURS),
    language.SHAPES,
    tuple(f"{shape}s" for shape in language.SHAPES),
    tuple(language.COUNTS),
    language.SIZES,
    ("above", "below"),
    ("left", "right"),
)


def wrong_captions(prompt: str) -> list[str]:
    """The prompt with one word replaced by another of its class, in every way."""
    words = prompt.split()
    return [
        " ".join([*words[:i], other, *words[i + 1 :]])
        for i, word in enumerate(words)
        for known in CLASSES
        if word in known
        for other in known
        if other != word
    ]


def accuracies(hard: Tensor, soft: Tensor, prompts: list[str], kinds: Sequence[str]) -> dict[str, float]:
    """The checker's hard accuracy by kind of prompt and on all these kinds, and its mean soft score there."""
    of = [language.parse(prompt).kind for prompt in prompts]
    means = {kind: hard[torch.tensor([k == kind for k in of])].double().mean() for kind in kinds}
    chosen = torch.tensor([k in kinds for k in of])
    means |= {"all": hard[chosen].double().mean(), "score": soft[chosen].mean()}
    return {key: round(value.item(), 4) for key, value in means.items()}
