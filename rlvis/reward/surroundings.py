"""What a process and a thread hold for everybody in them and scorers may change: settings and generators."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_here = threading.local()


@dataclass(frozen=True)
class Setting:
    """Something global: its name, how it is read and written, and whether all threads share it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    shared: bool = False


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return ""


def _go_to(folder: str) -> None:
    if folder:
        os.chdir(folder)


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device == torch.device("cpu") else device)


SETTINGS = (
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("default device", torch.get_default_device, _set_device),
    Setting("number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype, shared=True),
    Setting(
        "precision of matmuls",
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda value: setattr(torch.backends.cuda.matmul, "allow_tf32", value),
        shared=True,
    ),
    Setting(
        "choice of deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        shared=True,
    ),
    Setting("working folder", _folder, _go_to, shared=True),
)


@dataclass(frozen=True)
class Streams:
    """The states of the global generators: torch's (and that of the current GPU), numpy's, Python's."""

    torch: Tensor
    numpy: Any
    python: Any
    gpu: Tensor | None

    @staticmethod
    def now() -> Streams:
        gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        # The global one, which scorers may draw from.
        return Streams(torch.get_rng_state(), np.random.get_state(), random.getstate(), gpu)  # noqa: NPY002

    def install(self) -> None:
        torch.set_rng_state(self.torch)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)

    def moved(self, after: Streams) -> list[str]:
        """Whose are other ones after it."""
        same = self.numpy[0] == after.numpy[0] and self.numpy[2:] == after.numpy[2:]
        pairs = {
            "torch": torch.equal(self.torch, after.torch),
            "numpy": same and np.array_equal(self.numpy[1], after.numpy[1]),
            "Python": self.python == after.python,
            "the GPU": self.gpu is None or after.gpu is None or torch.equal(self.gpu, after.gpu),
        }
        return [name for name, equal in pairs.items() if not equal]


@contextmanager
def kept() -> Iterator[dict[str, Any]]:
    """What all threads share, by name, is afterwards as it was before; whoever changed it has been named."""
    began = {one.name: one.read() for one in SETTINGS if one.shared}
    try:
        yield began
    finally:
        for one in SETTINGS:
            if one.shared and one.read() != began[one.name]:
                one.write(began[one.name])


def is_beside() -> bool:
    """Whether this thread works beside another one of the run."""
    return began_beside() is not None


def go_beside(began: Mapping[str, Any]) -> None:
    """Say that this thread works beside another one of the run; began: as `kept` gives it."""
    _here.began = began


def began_beside() -> Mapping[str, Any] | None:
    """What all threads share, as it was when this one began to work beside another; None where it does not
    work so.
    """
    began: Mapping[str, Any] | None = getattr(_here, "began", None)
    return began
