"""Who writes a run folder: that process holds RUN/.lock (flock), and the kernel lets go when it ends.

Nothing here imports torch.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvis.findings import ConfigError


def acquire(folder: Path) -> int:
    """Take the folder's lock; it is held until the returned file is closed or this process ends.

    Raises ConfigError where another process has it, or the folder cannot be written.
    """
    try:
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} cannot be written: {error.strerror or error}; type run_dir=DIR"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ConfigError(in_use(folder)) from error
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder for work on it from outside. Raises ConfigError when a run writes into it."""
    lock = acquire(folder)
    try:
        yield
    finally:
        os.close(lock)


def is_held(folder: Path) -> bool:
    """Whether a process is writing the run folder now."""
    try:
        file = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may ask at once
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def in_use(folder: Path) -> str:
    """Whose folder it is, and what to type."""
    try:
        who = (folder / ".lock").read_text(encoding="utf-8").strip()
    except OSError:
        who = ""
    by = f" by process {who}" if who else ""
    return f"{folder} is in use{by}; wait for that run or stop it, or type another run_dir"
