"""The folder of a run, outputs/NAME/DATE_TIME, and RUN/config.yaml: its settings, resolved, without secrets.

Nothing here imports torch.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import yaml

from rlvis import writing
from rlvis.findings import ConfigError
from rlvis.runs import lock
from rlvis.runs.redact import public
from rlvis.schema import Config, plain

OUTPUTS = Path("outputs")
TRACES = ("metrics.jsonl", "samples", "checkpoints", "records", "dump", "lora", "model", "eval")


def create(config: Config) -> Path:
    """Make the folder of a new run. Raises ConfigError where it holds a run already or cannot be written."""
    if config.run_dir is not None:
        folder = Path(config.run_dir).expanduser()
        refuse_taken(folder)
        _make(folder, exist_ok=True)
        return folder
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = OUTPUTS / config.name / (stamp if number == 1 else f"{stamp}_{number}")
        if _make(folder, exist_ok=False):
            return folder
    raise ConfigError(f"{OUTPUTS / config.name} holds a thousand runs of this second; type run_dir=DIR")


def refuse_taken(folder: Path) -> None:
    """Raise ConfigError where a run writes into the folder, or has left its work in it."""
    if lock.is_held(folder):
        raise ConfigError(lock.in_use(folder))
    # What a refused run left (its configuration, what the doctor said) is nobody's work yet.
    if (folder / "config.yaml").exists() and any((folder / name).exists() for name in TRACES):
        raise ConfigError(
            f"run_dir={folder} already holds a run; type resume={folder} to go on with it, or another run_dir"
        )


def write_config(folder: Path, config: Config) -> None:
    """config.yaml, in one piece or not at all; keys that name this one start are left at their defaults."""
    content = public(plain(config)) | {"resume": None, "resume_allow": [], "dry_run": False}
    writing.text(folder / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


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
