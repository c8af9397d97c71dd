"""Checkpoint and run folders that are whole and hold next to nothing, for tests of what judges them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from rlvis.checkpoints import disk, files
from rlvis.compose.command import compose
from rlvis.schema import Config, plain


def checkpoint(run: Path, step: int = 3, **parts: bytes) -> Path:
    """RUN/checkpoints/step_NNNNNN with the given files, sealed; folders are made where they are missing."""
    folder = files.root(run) / files.name(step)
    folder.mkdir(parents=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    listed = {name: disk.checksum(folder / name) for name in parts}
    disk.seal(folder, listed, {"step": step, "world_size": 1, "zero_stage": 0, "ema": False})
    return folder


def settings(**changes: Any) -> Config:
    """The default run with some fields changed."""
    return dataclasses.replace(compose([]).typed(), **changes)


def run(folder: Path, step: int = 3) -> Path:
    """A run folder with a checkpoint."""
    checkpoint(folder, step)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain(settings())))
    return folder


def alone(value: Any) -> Any:
    """The broadcast of one process."""
    return value
