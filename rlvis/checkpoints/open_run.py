"""Where a run writes and what it goes on from: the leading process decides and holds it, the others are told.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvis.checkpoints import disk, files, permission, resume
from rlvis.findings import ConfigError, Finding, mistake
from rlvis.runs import folder, lock
from rlvis.runs.redact import public
from rlvis.schema import Config, plain


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and the checkpoint that it goes on from; None in a new run."""

    path: Path
    checkpoint: Path | None = None


@contextmanager
def open_run(config: Config, is_main: bool, broadcast: Callable[[Any], Any]) -> Iterator[RunFolder]:
    """Decide, make and hold the run's folder; the leading process does it, `broadcast` tells the others.

    config.resume: null makes a new folder; `auto` goes on with the newest run of config.name that has a whole
    checkpoint, else makes a new one; anything else is the folder to go on with.
    Raises ConfigError, on every process, when the folder is in use, holds another run, or cannot be written.
    """
    handle: int | None = None
    result: RunFolder | ConfigError | None = None
    if is_main:
        try:
            before = resume.find(config)
            path = folder.create(config) if before is None else before
            handle = lock.acquire(path)
            result = RunFolder(path, None if before is None else _prepare(path, config))
            folder.write_config(path, config)
        except ConfigError as error:  # sent to all, or they would wait for us
            result = error
        except OSError as error:
            result = ConfigError(str(error))
    try:
        agreed = broadcast(result)
        if isinstance(agreed, ConfigError):
            raise agreed
        yield agreed
    finally:
        if handle is not None:
            os.close(handle)


def errors(config: Config) -> list[Finding]:
    """What would make `open_run` refuse, looked at without writing anything; for the check before anything
    heavy loads.
    """
    try:
        if config.resume is not None and (path := resume.find(config)) is not None:
            if lock.is_held(path):
                return [mistake(lock.in_use(path))]
            files.choose(path)
        if config.run_dir is not None:
            folder.refuse_taken(Path(config.run_dir).expanduser())
    except ConfigError as error:
        return list(error.findings)
    return []


def _prepare(path: Path, config: Config) -> Path:
    """The checkpoint to go on from, once what a kill left is cleared away and allowed changes are noted."""
    checkpoint = files.choose(path)
    disk.tidy(path)
    changes = permission.find_changes(resume.saved_settings(path), public(plain(config)), config.resume_allow)
    permission.note_changes(path, files.step_of(checkpoint), changes)
    return checkpoint
