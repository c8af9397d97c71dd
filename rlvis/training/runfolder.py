"""The folder of a run: outputs/NAME/DATE_TIME, made and held by the leading process, gone on with by `resume`.

    RUN/config.yaml   what the run was told, resolved; secrets are left out
    RUN/.lock         held (flock) by the process that writes; the kernel lets go of it when that process ends

A resumed run keeps its own configuration: what the command line says is compared with it, and a value that
would change the run is refused with both values. Nothing here imports torch.
"""

from __future__ import annotations

import copy
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlvis.schema import Config, plain
from rlvis.training.checks import ConfigError

OUTPUTS = Path("outputs")
# What may differ between a run and its continuation, as prefixes of dotted keys.
FREE = (
    "train.steps",
    "train.save_every",
    "train.keep",
    "train.save_records",
    "train.score_retries",
    "tracker.",
    "run_dir",
    "resume",
    "dry_run",
    "threads",
    "engine.device",
)
SECRET = re.compile(r"(^|_)(api_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
HIDDEN = "***"


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and whether it goes on with what is there."""

    path: Path
    resumes: bool


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
            found = _decide(config)
            lock = _hold(found.path)
            _write_config(found.path, config)
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
            held = _is_held(folder)
            return [_in_use(folder)] if held else []
        if config.run_dir is not None:
            _refuse_taken(Path(config.run_dir).expanduser())
    except ConfigError as error:
        return [str(error)]
    return []


def find(config: Config) -> Path | None:
    """The folder that config.resume means; None for a new run.

    Raises ConfigError when a named folder is none, or has no whole checkpoint to go on from.
    """
    if config.resume is None:
        return None
    if config.resume == "auto":
        folders = [f for f in _runs(config.name) if has_checkpoint(f)]
        return folders[-1] if folders else None
    folder = Path(config.resume).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"resume={config.resume}: there is no such folder; type resume=outputs/NAME/DATE_TIME, or "
            "resume=auto"
        )
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"resume={config.resume} is no run folder: it holds no config.yaml; type "
            "resume=outputs/NAME/DATE_TIME"
        )
    if not has_checkpoint(folder):
        raise ConfigError(
            f"resume={config.resume} has no whole checkpoint to go on from; start anew without resume=, with "
            "train.save_every=N"
        )
    return folder


def has_checkpoint(folder: Path) -> bool:
    """Whether a whole checkpoint lies in a run folder."""
    return any(folder.glob("checkpoints/step_*/COMPLETE"))


def saved(folder: Path) -> dict[str, Any]:
    """What config.yaml of a run says. Raises ConfigError when it cannot be read."""
    try:
        value = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{folder / 'config.yaml'} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{folder / 'config.yaml'} is empty or no mapping; start a new run without resume=")
    return value


def continued(before: dict[str, Any], now: dict[str, Any], touched: Sequence[str]) -> dict[str, Any]:
    """The configuration of a resumed run: `before`, with those values of `now` that were named and may
    change.

    before, now: nested plain values. touched: dotted keys that the command line named, "model.*" for a
    section, "*" for all.
    Raises ConfigError that lists every named value that differs and may not.
    """
    old, new = flat(before), flat(now)
    refused, changes = [], {}
    for key in sorted({*old, *new}):
        if not _is_named(key, touched) or old.get(key) == new.get(key):
            continue
        if key.startswith(FREE) or old.get(key) == HIDDEN:
            changes[key] = new.get(key)
        else:
            refused.append(f"{key} was {_shown(old.get(key))} and is now {_shown(new.get(key))}")
    if refused:
        raise ConfigError(
            f"resume: {'; '.join(refused)}. A resumed run keeps its settings: leave "
            f"{'this' if len(refused) == 1 else 'these'} out, "
            "or start a new run without resume="
        )
    result = copy.deepcopy(before)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    hidden = [key for key, value in flat(result).items() if value == HIDDEN]
    if hidden:
        raise ConfigError(
            f"resume: {', '.join(hidden)} was not written into the run folder, being secret; type "
            f"{hidden[0]}=... again"
        )
    return result


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim.lr": 3e-4, ...}; lists and empty mappings are values."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def public(nested: Any) -> Any:
    """Nested plain values with what is secret by its name (api_key, token, password) hidden."""
    if isinstance(nested, dict):
        return {
            k: HIDDEN if SECRET.search(str(k)) and v is not None else public(v) for k, v in nested.items()
        }
    return [public(v) for v in nested] if isinstance(nested, list) else nested


def _is_named(key: str, touched: Sequence[str]) -> bool:
    sections = (t.removesuffix("*") for t in touched if t.endswith("*"))
    return any(key == t or key.startswith(f"{t}.") for t in touched) or any(
        key.startswith(s) for s in sections
    )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _runs(name: str) -> list[Path]:
    """Run folders of this name, oldest first: their names are dates."""
    return sorted(f for f in (OUTPUTS / name).glob("*") if (f / "config.yaml").is_file())


def _decide(config: Config) -> RunFolder:
    folder = find(config)
    if folder is not None:
        return RunFolder(folder, True)
    if config.run_dir is not None:
        folder = Path(config.run_dir).expanduser()
        _refuse_taken(folder)
        _make(folder, exist_ok=True)
        return RunFolder(folder, False)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = OUTPUTS / config.name / (stamp if number == 1 else f"{stamp}_{number}")
        if _make(folder, exist_ok=False):
            return RunFolder(folder, False)
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
    if _is_held(folder):
        raise ConfigError(_in_use(folder))
    if (folder / "config.yaml").exists():
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


def _is_held(folder: Path) -> bool:
    try:
        file = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _write_config(folder: Path, config: Config) -> None:
    """config.yaml, in one piece or not at all; keys that name this one start are left at their defaults."""
    told = public(plain(config)) | {"resume": None, "dry_run": False}
    aside = folder / ".config.yaml"
    aside.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    aside.rename(folder / "config.yaml")
