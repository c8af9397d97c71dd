"""What DeepSpeed would write at once, held in CPU memory instead, for somebody to write later.

DeepSpeed writes its checkpoints through a replaceable object; `Snapshots` takes that place. Its save() copies
and returns, so a checkpoint costs the training path one copy, and no file is touched. Reading back goes
through torch's restricted unpickler, with DeepSpeed's own classes allowed and nothing else.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's own switch


class Snapshots:
    """DeepSpeed's checkpoint engine (`engine.checkpoint_engine`): what it is given to save lies in `taken`,
    path -> state, until it is fetched.
    """

    name = "rlvis"

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        self.taken[str(path)] = copied(state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        return read(Path(path), map_location)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Whoever writes the snapshot makes its folders."""

    def create(self, info: Any) -> None:
        self.taken = {}

    def commit(self, info: Any) -> bool:
        return True

    def cleanup(self) -> None:
        self.taken = {}

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return dp_rank == 0

    def is_decoupled(self) -> bool:
        """No: a decoupled one is committed by collectives in the middle of a later training step."""
        return False

    def preserves_storage_sharing(self) -> bool:
        return False  # `copied` makes every tensor its own storage

    def set_commit_info(self, info: Any) -> None:
        pass

    def get_commit_info(self) -> None:
        return None


def copied(item: Any) -> Any:
    """A deep copy with every tensor in CPU memory of its own, so that training may go on in the original."""
    if isinstance(item, Tensor):
        return item.detach().to("cpu", copy=True).contiguous()
    if isinstance(item, dict):
        result = copy.copy(item)  # keeps the kind of mapping
        for key, value in item.items():
            result[key] = copied(value)
        return result
    if type(item) in (list, tuple):
        return type(item)(copied(value) for value in item)
    return copy.deepcopy(item)


def write(files: Mapping[str, Any], folder: Path) -> list[str]:
    """Write a snapshot (path below `folder` -> state) and return the paths. Raises OSError when it cannot."""
    for name, state in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            stream: Any = _Told(file)
            try:
                torch.save(state, stream)
            except RuntimeError:
                if stream.error is not None:  # torch says only that its position is not what it expected
                    raise stream.error from None
                raise
    return list(files)


def read(path: Path, map_location: Any = None) -> Any:
    """What `write` wrote, without running any code but DeepSpeed's own classes.

    Raises ValueError when the file asks for anything else.
    """
    with torch.serialization.safe_globals(_classes(path)):
        return torch.load(path, map_location=map_location, weights_only=True)


@contextmanager
def only_known(folder: Path) -> Iterator[None]:
    """Inside it torch.load reads the .pt files below `folder` as `read` does, also where a library asks for
    plain pickle.
    """
    classes = {cls for path in folder.rglob("*.pt") for cls in _classes(path)}
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(list(classes)):
            yield
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


class _Told:
    """A binary file that remembers why a write failed."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return int(self.file.write(data))
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error
            raise


def _classes(path: Path) -> list[Any]:
    """The classes that a file's pickle names beyond torch's own."""
    classes = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
        module, _, attribute = name.rpartition(".")
        if not module.startswith("deepspeed."):
            raise ValueError(
                f"{path} asks for {name}: only DeepSpeed's own classes are read from a checkpoint"
            )
        value = getattr(importlib.import_module(module), attribute, None)
        if not isinstance(value, type) or not value.__module__.startswith("deepspeed."):
            raise ValueError(f"{path} asks for {name}, which is no class of DeepSpeed's: it is not read")
        classes.append(value)
    return classes
