"""Going on with a run: which folder is meant, and with which settings.

A resumed run keeps its own configuration: what the command line names is compared with it, and a value that
would change the run is refused with both values. Nothing here imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.schema import Config
from rlvis.training.checks import ConfigError
from rlvis.training.private import HIDDEN

OUTPUTS = Path("outputs")
# What may differ between a run and its continuation, as prefixes of dotted keys.
FREE = (
    "train.steps",
    "train.save_every",
    "train.keep",
    "train.save_records",
    "train.score_retries",
    "tracker.",
    "eval.",
    "prior.cache",
    "run_dir",
    "resume",
    "dry_run",
    "threads",
    "engine.device",
)


def resumed(config: Config, touched: Sequence[str]) -> Config:
    """The configuration of the run that config.resume names, changed where the command line may change it.

    touched: the keys that it named (see `continued`). config.resume is a folder in the result, or null where
    `auto` finds none.
    Raises ConfigError when there is nothing to go on with, or a named value differs that must not.
    """
    folder = find(config)
    if folder is None:
        return replace(config, resume=None)
    before = continued(saved(folder), schema.plain(config), touched)
    try:
        whole = OmegaConf.merge(OmegaConf.structured(Config), before)
        return replace(schema.typed(whole), resume=str(folder), run_dir=None)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{folder / 'config.yaml'} does not fit this version of rlvis ({str(error).splitlines()[0]}); "
            "type resume=null for a new run"
        ) from error


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
