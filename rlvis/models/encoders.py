"""Text encoders that come only when a prompt must be encoded: with model.embed_cache most runs need none.

They are often larger than the denoiser. Left out when the pipeline is opened, they are read on the first
prompt that the cache does not hold, wait in the host's memory from then on, and are on the device only while
prompts are encoded.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rlvis.models.source import failure, resolve
from rlvis.schema import ModelConfig

log = logging.getLogger(__name__)


class Encoders:
    """The text encoders of one pipeline that was opened without them.

    names: those of the family's that its model_index.json has. working: whether they are on the device.
    """

    def __init__(self, pipe: Any, config: ModelConfig, names: tuple[str, ...], device: torch.device) -> None:
        self.pipe, self.config, self.device = pipe, config, device
        self.working = False
        index: Any = type(pipe).load_config(resolve(config.path), revision=config.revision)
        self.names = tuple(name for name in names if index.get(name, [None])[0] is not None)
        self.classes = {name: tuple(index[name]) for name in self.names}

    def load(self) -> None:
        """Read those that are not there yet, as the stock pipeline does, into the host's memory.

        Raises ValueError when a file cannot be read.
        """
        missing = [name for name in self.names if getattr(self.pipe, name) is None]
        if missing:
            log.info("model.embed_cache lacks a prompt: loading %s", ", ".join(missing))
        for name in missing:
            library, kind = self.classes[name]
            where = resolve(self.config.path)
            try:
                module: nn.Module = getattr(importlib.import_module(library), kind).from_pretrained(
                    where,
                    subfolder=name,
                    revision=self.config.revision,
                    use_safetensors=True,
                    dtype=getattr(torch, self.config.dtype),
                )
            except OSError as error:
                raise ValueError(failure(self.config.path, where, self.config.revision, error)) from error
            self.pipe.register_modules(**{name: module.requires_grad_(False).eval()})

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They are on the device inside of it, and on the CPU after it."""
        self.load()
        modules = [getattr(self.pipe, name) for name in self.names]
        self.working = True
        try:
            for module in modules:
                module.to(self.device)
            yield
        finally:
            self.working = False
            for module in modules:
                module.to("cpu")
