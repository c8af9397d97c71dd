"""Captions on their way into a judge: each once, and a word in the log where it cannot read to the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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


class CutWarning:
    """Says once in the log that the judge `who` does not read some prompts to their end."""

    def __init__(self, who: str) -> None:
        self.who, self.given = who, False

    def transformers(self, tokenizer: Any, texts: Sequence[str], length: int) -> None:
        """For a tokenizer of transformers that is cut at `length` tokens, its special ones included."""

        def cut() -> list[bool]:
            ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
            return [len(row) > length for row in ids]

        self._give(texts, length, cut)

    def open_clip(self, tokenizer: Any, texts: Sequence[str], ids: Tensor) -> None:
        """For one of open_clip that gave `ids` [n, length]: in a context twice as long they are others."""
        length = ids.shape[1]

        def cut() -> list[bool]:
            longer = tokenizer(list(texts), context_length=2 * length)
            return [bool(row.any()) for row in longer[:, :length] != ids]

        self._give(texts, length, cut)

    def _give(self, texts: Sequence[str], length: int, find: Callable[[], list[bool]]) -> None:
        if self.given or not any(cut := find()):
            return
        self.given = True
        log.warning(
            "%s reads %d tokens; prompts beyond that are cut, %d of these %d, the first: %r",
            *(self.who, length, sum(cut), len(texts), texts[cut.index(True)]),
        )
