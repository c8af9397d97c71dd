"""Files and folders that appear whole or not at all: written beside their place, synced, renamed.

A kill or a full disk at any moment leaves what was there before. What a library says of a full disk in words
of its own becomes an OSError that names the file. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}


@contextmanager
def aside(path: Path, *, sync: bool = True, shared: bool = False) -> Iterator[Path]:
    """A hidden path beside `path`, to write a file or a folder to, which gets its name when the block ends.

    Raised inside of it, an exception removes what was written, and `path` is as it was before.
    sync: False for what may be lost with the machine's power, such as pictures. shared: several processes may
    write the same one at once.

    Raises OSError with ENOSPC or EDQUOT and the path where the disk is full, whoever noticed it.
    """
    part = path.with_name(f".part{os.getpid() if shared else ''}_{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(part)
    try:
        yield part
        if sync:
            _sync_all(part)
        _give_name(part, path)
    except BaseException as error:
        _remove(part)
        number = full(error)
        if number is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(number, FULL[number], str(path)) from error


def text(path: Path, content: str, *, sync: bool = True) -> Path:
    """Write a text file, in one piece or not at all."""
    with aside(path, sync=sync) as part:
        part.write_text(content, encoding="utf-8", errors="replace")
    return path


def full(error: BaseException) -> int | None:
    """The number of the OSError that a full disk or quota raises, where `error` is one or tells of one."""
    if isinstance(error, OSError) and error.errno in FULL:
        return error.errno
    return next((number for number, words in FULL.items() if words in str(error)), None)


def sync_path(path: Path) -> None:
    """fsync of a file, or of a folder (so that a rename in it lasts)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(part: Path, path: Path) -> None:
    """Give a folder its name; one that had it before goes once the new one is there."""
    replaced = path.with_name(f".replaced_{path.name}")
    if path.exists():
        _remove(replaced)
        path.rename(replaced)
    part.rename(path)
    sync_path(path.parent)
    _remove(replaced)


def _give_name(part: Path, path: Path) -> None:
    if part.is_dir():
        publish(part, path)
    else:
        part.replace(path)


def _sync_all(part: Path) -> None:
    for inner in part.rglob("*") if part.is_dir() else ():
        sync_path(inner)
    sync_path(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
