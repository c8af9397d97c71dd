"""Checkpoints in words: what one holds, and a table of all with what is wrong. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from rlvis.checkpoints import files

COLUMNS = ("checkpoint", "files", "size", "written", "state")


def inspect(folder: Path) -> str:
    """Step, date, origin and parts of a checkpoint, with what is wrong with it."""
    bad = files.damage(folder)
    lines = [f"{folder}: {'whole' if not bad else 'DAMAGED'}", *(f"  damaged: {fault}" for fault in bad)]
    try:
        meta, listed = files.meta(folder), files.sums(folder)
    except ValueError:
        return "\n".join(lines)
    git, versions = meta.get("git"), meta.get("versions", {})
    commit = f", commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else ""
    lines += [
        f"  step {meta['step']}, written {meta.get('date', 'at an unknown time')}",
        f"  by {', '.join(f'{name} {version}' for name, version in versions.items())}{commit}",
        f"  {meta['world_size']} process{'es' if meta['world_size'] > 1 else ''}, ZeRO stage "
        f"{meta['zero_stage']}, {'with' if meta['ema'] else 'without'} averaged weights",
    ]
    lines += [_part(folder, part, listed) for part in sorted({Path(file).parts[0] for file in listed})]
    config = folder / files.CONFIG
    if config.is_file():
        lines.append(f"  configuration: SHA-256 {hashlib.sha256(config.read_bytes()).hexdigest()[:16]}")
    return "\n".join(lines)


def table(folders: list[Path]) -> tuple[str, bool]:
    """A row for each checkpoint, every byte read, and what is wrong below; whether all are whole."""
    rows, below = [COLUMNS], []
    for folder in folders:
        bad = files.damage(folder)
        below += [f"{folder.name}: {fault}" for fault in bad]
        try:
            listed = files.sums(folder)
            size = mebibytes(sum(entry["bytes"] for entry in listed.values()))
            date = str(files.meta(folder).get("date", "?"))
            rows.append((folder.name, str(len(listed)), size, date, "DAMAGED" if bad else "whole"))
        except ValueError:
            rows.append((folder.name, "?", "?", "?", "DAMAGED"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*(line.rstrip() for line in lines), *below]), not below


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"


def _part(folder: Path, part: str, listed: dict[str, Any]) -> str:
    """One part (a file, or a folder of files) with its size and number of tensors."""
    names = [file for file in listed if Path(file).parts[0] == part]
    tensors = sum(_tensors(folder / file) for file in names)
    count = f"{len(names)} file{'s' if len(names) > 1 else ''}"
    text = f"  {part:<16} {mebibytes(sum(listed[file]['bytes'] for file in names)):>12}  {count}"
    return f"{text}, {tensors} tensors" if tensors else text


def _tensors(path: Path) -> int:
    """Tensors in a file: entries of a safetensors header, storages in torch's archive; 0 where it is neither
    or cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return len(header.keys() - {"__metadata__"})
        if path.suffix == ".pt":
            with zipfile.ZipFile(path) as archive:
                return sum("/data/" in name for name in archive.namelist())
    except (OSError, ValueError, MemoryError, OverflowError, zipfile.BadZipFile):
        pass
    return 0
