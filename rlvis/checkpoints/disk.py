"""Checkpoint folders as they are written: synced, sealed, renamed, pointed at, cleared away.

A folder is written under a hidden name and renamed when it is whole; one that goes is renamed to a hidden
name first. A kill at any moment leaves nothing that looks whole and is not. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from rlvis import writing
from rlvis.checkpoints import files
from rlvis.checkpoints.files import COMPLETE, LATEST, META, SUMS
from rlvis.writing import sync_path

log = logging.getLogger(__name__)

HIDDEN = (".partial_", ".replaced_", ".removed_")


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, which is synced to the disk on the way."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def seal(partial: Path, listed: dict[str, dict[str, Any]], meta: dict[str, Any]) -> None:
    """Write meta.json, SUMS.json and, last, COMPLETE into a folder whose other files, `listed`, are synced.

    told: what meta.json says beside format and bytes.
    """
    total = sum(entry["bytes"] for entry in listed.values())
    put(partial / META, json.dumps({"format": files.FORMAT, **meta, "bytes": total}, indent=1) + "\n")
    listed = {**listed, META: checksum(partial / META)}
    text = json.dumps({"files": dict(sorted(listed.items()))}, indent=1) + "\n"
    put(partial / SUMS, text)
    for folder in (*(p for p in partial.rglob("*") if p.is_dir()), partial):
        sync_path(folder)
    put(partial / COMPLETE, files.seal_of(text.encode()).decode())
    sync_path(partial)


def publish(partial: Path, final: Path) -> None:
    """Give a sealed folder its name; one that had it before goes."""
    writing.publish(partial, final)


def point_latest(folder: Path) -> None:
    """Write `latest` beside a checkpoint: aside, synced, renamed."""
    writing.text(folder.with_name(LATEST), folder.name + "\n")
    sync_path(folder.parent)


def tidy(run_dir: Path) -> None:
    """Remove what a killed run left half written or half removed, and mend `latest`."""
    for path in files.root(run_dir).glob(".*"):
        if path.name.startswith(HIDDEN):
            shutil.rmtree(path, ignore_errors=True)
            log.info("removed %s, left over by a run that was killed while it wrote", path)
    whole = files.whole(run_dir)
    pointer = files.root(run_dir) / LATEST
    if whole and (not pointer.is_file() or pointer.read_text(errors="replace").strip() != whole[-1].name):
        point_latest(whole[-1])


def remove(folder: Path) -> None:
    """Remove a checkpoint; killed in between, it leaves nothing that looks like one."""
    gone = folder.with_name(f".removed_{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    sync_path(folder.parent)
    shutil.rmtree(gone)


def put(path: Path, text: str) -> None:
    """Write a small file and sync it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
