"""The folder of a run: outputs/NAME/DATE_TIME, decided, made and held by the leading process.

    RUN/config.yaml   what the run was told, resolved; secrets are left out
    RUN/.lock         held (flock) by the process that writes; the kernel lets go of it when that process ends

Nothing here imports torch.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlvis.schema import Config, plain
from rlvis.training import permission, resume
from rlvis.training.checkpoints import disk, files
from rlvis.training.checks import ConfigError
from rlvis.training.private import public
from rlvis.training.resume import OUTPUTS, find

_TRACES = ("metrics.jsonl", "samples", "checkpoints", "records", "dump", "lora", "model", "eval")


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and the checkpoint that it goes on from; None in a new run."""

    path: Path
    checkpoint: Path | None = None


@contextmanager
def opened(config: Config, leads: bool, broadcast: Callable[[Any], Any]) -> Iterator[RunFolder]:
    """Decide, make and hold the run's folder; the leading process does it, `broadcast` tells the others.

    config.resume: null makes a new folder; `auto` goes on with the newest run of config.name that has a whole
    checkpoint, else makes a new one; anything else is the folder to go on with.
    Raises ConfigError, on every process, when the folder is in use, holds another run, or cannot be written.
    """
    lock: int | None = None
    found: RunFolder | str
    if leads:
        try:
            path, resumes = _decide(config)
            lock = _hold(path)
            found = RunFolder(path, _mended(path, config) if resumes else None)
            _write_config(path, config)
        except (ConfigError, OSError) as error:  # told to all, or they would wait for us
            found = str(error)
    else:
        found = ""
    try:
        told = broadcast(found)
        if isinstance(told, str):
            raise ConfigError(told)
        yield told
    finally:
        if lock is not None:
            os.close(lock)


def problems(config: Config) -> list[str]:
    """What would make `opened` refuse, looked at without writing anything; for the check before anything
    heavy loads.
    """
    try:
        if config.resume is not None and (folder := find(config)) is not None:
            if is_held(folder):
                return [_in_use(folder)]
            files.choose(folder)
        if config.run_dir is not None:
            _refuse_taken(Path(config.run_dir).expanduser())
    except ConfigError as error:
        return [str(error)]
    return []


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder for work on it from outside. Raises ConfigError when a run writes into it."""
    lock = _hold(folder)
    try:
        yield
    finally:
        os.close(lock)


def _mended(folder: Path, config: Config) -> Path:
    """The checkpoint to go on from, once what a kill left is cleared away and allowed changes are noted."""
    checkpoint = files.choose(folder)
    disk.tidy(folder)
    changes = permission.changed(resume.saved(folder), public(plain(config)), config.resume_allow)
    permission.note_changes(folder, files.step_of(checkpoint), changes)
    return checkpoint


def _decide(config: Config) -> tuple[Path, bool]:
    """The folder, and whether a run in it is resumed."""
    folder = find(config)
    if folder is not None:
        return folder, True
    if config.run_dir is not None:
        folder = Path(config.run_dir).expanduser()
        _refuse_taken(folder)
        _make(folder, exist_ok=True)
        return folder, False
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = OUTPUTS / config.name / (stamp if number == 1 else f"{stamp}_{number}")
        if _make(folder, exist_ok=False):
            return folder, False
    raise ConfigError(f"{OUTPUTS / config.name} holds a thousand runs of this second; type run_dir=DIR")


def _make(folder: Path, *, exist_ok: bool) -> bool:
    """Make a folder; False where it is there already and must not be."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except FileExistsError as error:
        if not exist_ok:
            return False
        raise ConfigError(f"run_dir={folder} is a file; type run_dir=DIR with a folder") from error
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} cannot be written: {error.strerror or error}; type run_dir=DIR with a "
            "folder that can"
        ) from error
    return True


def _refuse_taken(folder: Path) -> None:
    if is_held(folder):
        raise ConfigError(_in_use(folder))
    # What a refused run left (its configuration, what the doctor said) is nobody's work yet.
    if (folder / "config.yaml").exists() and any((folder / name).exists() for name in _TRACES):
        raise ConfigError(
            f"run_dir={folder} already holds a run; type resume={folder} to go on with it, or another run_dir"
        )


def _in_use(folder: Path) -> str:
    try:
        who = (folder / ".lock").read_text(encoding="utf-8").strip()
    except OSError:
        who = ""
    by = f" by process {who}" if who else ""
    return f"{folder} is in use{by}; wait for that run or stop it, or type another run_dir"


def _hold(folder: Path) -> int:
    """Take the folder's lock; it is held until the returned file is closed or this process ends."""
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
        raise ConfigError(_in_use(folder)) from error
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file


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


def _write_config(folder: Path, config: Config) -> None:
    """config.yaml, in one piece or not at all; keys that name this one start are left at their defaults."""
    told = public(plain(config)) | {"resume": None, "resume_allow": [], "dry_run": False}
    aside = folder / ".config.yaml"
    aside.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    aside.rename(folder / "config.yaml")
