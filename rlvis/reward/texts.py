"""Captions on their way into a judge: each once, and a word in the log where it cannot read to the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def captions(prompts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The different prompts, each once, and where those of the B samples stand among them: int64 [B].

    >>> captions(["a", "b", "a"])
    (['a', 'b'], tensor([0, 1, 0]))
    """
    places = {text: i for i, text in enumerate(dict.fromkeys(prompts))}
    return list(places), torch.tensor([places[text] for text in prompts], dtype=torch.int64)


def warn_cut(who: str, length: int, texts: Sequence[str], cut: Sequence[bool]) -> bool:
    """Log that `who` reads `length` tokens of the texts where `cut`; whether there were any."""
    if any(cut):
        log.warning(
            "%s reads %d tokens; prompts beyond that are cut, %d of these %d, the first: %r",
            *(who, length, sum(cut), len(texts), texts[list(cut).index(True)]),
        )
    return any(cut)


def too_long(tokenizer: Any, texts: Sequence[str], length: int) -> list[bool]:
    """Which texts a tokenizer of transformers would cut at `length` tokens, its special ones included."""
    found = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    return [len(ids) > length for ids in found]
