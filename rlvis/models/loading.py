"""Whether what a library opened is what the files hold: every weight is there, and is a number.

Libraries leave a weight that no file has without storage (diffusers) or draw it at random and only log it
(transformers), and take any bits for numbers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

LONGEST = 10**7  # tokens; a tokenizer that knows no limit says 1e30
MISSING = re.compile(r"^(\S+)\s*\|.*\bMISSING\b", re.MULTILINE)


@contextmanager
def lost_weights() -> Iterator[list[str]]:
    """Inside of it, transformers' reports of weights that no file has are collected, not printed."""
    lost: list[str] = []
    library = logging.getLogger("transformers")
    handlers, level = library.handlers, library.level
    library.handlers, library.level = [_Collector(lost)], logging.WARNING
    try:
        yield lost
    finally:
        library.handlers, library.level = handlers, level


class _Collector(logging.Handler):
    def __init__(self, lost: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        self.lost += MISSING.findall(record.getMessage())


def require_whole(pipe: Any, path: str, lost: Sequence[str]) -> None:
    """Refuse weights without storage and tokenizers without a limit; warn of weights that were drawn at
    random.

    lost: see `lost_weights`. path: model.path, for the message. Raises ValueError.
    """
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            gone = [key for key, value in part.named_parameters() if value.is_meta]
            if gone:
                raise ValueError(
                    f"model.path={path}: the files of {name}/ lack {len(gone)} of its weights, the first "
                    f"is {gone[0]}; get {name}/ again, or type another model.path"
                )
        limit = getattr(part, "model_max_length", 0)
        if limit > LONGEST:
            raise ValueError(
                f"model.path={path}: {name}/ does not say how many tokens its text encoder takes "
                "(model_max_length in tokenizer_config.json): a file of the tokenizer is missing; get the "
                "folder again"
            )
    if lost:
        log.warning(
            "model.path=%s: its files lack %d weights, which were drawn at random: %s%s; samples will not be "
            "those of the checkpoint unless nothing reads them",
            path,
            len(lost),
            ", ".join(lost[:3]),
            "" if len(lost) <= 3 else ", ...",
        )


@torch.no_grad()
def require_finite(pipe: Any, path: str) -> None:
    """Refuse a checkpoint with weights that are NaN or infinite, naming the first. Raises ValueError."""
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        weights = [(key, value) for key, value in part.named_parameters() if value.is_floating_point()]
        weights = [(key, value) for key, value in weights if value.numel() and not value.is_meta]
        if not weights:
            continue
        # Both ends of a tensor are finite if all of it is: no copy, and one look at the device for all.
        ends = torch.stack([torch.stack(torch.aminmax(value)).float() for _, value in weights])
        bad = (~ends.isfinite().all(1)).tolist()
        if any(bad):
            raise ValueError(
                f"model.path={path}: {sum(bad)} of {len(weights)} weights of {name}/ hold NaN or infinite "
                f"numbers in the file, first {weights[bad.index(True)][0]}; get {name}/ again"
            )
