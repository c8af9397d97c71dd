"""What an evaluation has drawn so far, for one that is started again: FOLDER/parts/*.safetensors, the columns
of each micro-batch of each rank, by a digest of all they depend on. Removed when the evaluation is done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvis import writing
from rlvis.runtime.dist import World


class Drawn:
    """The micro-batches of one evaluation that this rank has drawn and judged."""

    def __init__(self, folder: Path, depends: Mapping[str, Any], world: World, micro_batch: int) -> None:
        """folder: of the evaluation. depends: JSON values; settings, weights, step."""
        rows = {"ranks": world.data_size, "micro_batch": micro_batch}
        text = json.dumps({**depends, **rows}, sort_keys=True, default=str)
        self.folder = folder / "parts" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.rank, self.main = world.rank, world.is_main

    def read(self, start: int) -> dict[str, Tensor] | None:
        """The columns of the micro-batch that begins at local row `start`; None where it was not drawn."""
        try:
            return load_file(self._file(start))
        except (OSError, SafetensorError):
            return None

    def write(self, start: int, columns: Mapping[str, Tensor]) -> None:
        """Keep the columns of a micro-batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing.aside(self._file(start)) as part:
            save_file({name: column.contiguous() for name, column in columns.items()}, part)

    def remove(self) -> None:
        """The evaluation is written; its parts go."""
        if self.main:
            shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _file(self, start: int) -> Path:
        return self.folder / f"rank{self.rank:04d}_{start:08d}.safetensors"
