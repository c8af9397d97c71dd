"""A checkpoint folder that is whole and holds next to nothing, for tests of what finds and judges them."""

from __future__ import annotations

from pathlib import Path

from rlvis.checkpoints import disk, files


def checkpoint(run: Path, step: int = 3, **parts: bytes) -> Path:
    """RUN/checkpoints/step_NNNNNN with the given files, sealed; folders are made where they are missing."""
    folder = files.root(run) / files.name(step)
    folder.mkdir(parents=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    listed = {name: disk.checksum(folder / name) for name in parts}
    disk.seal(folder, listed, {"step": step, "world_size": 1, "zero_stage": 0, "ema": False})
    return folder
