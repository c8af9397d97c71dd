"""Going on with a run: which folder is meant, and with which settings.

A resumed run keeps its own configuration: what the command line names is compared with it, and a value that
would change the run is refused with both values, unless resume_allow names its key. Nothing here imports
torch.
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
from rlvis.checkpoints import files, permission
from rlvis.checkpoints.permission import flat, is_named, shown
from rlvis.findings import ConfigError, mistake
from rlvis.runs import manifest
from rlvis.runs.folder import OUTPUTS
from rlvis.runs.redact import HIDDEN
from rlvis.schema import Config

# Keys of earlier versions whose option is gone: nothing read their value in a run that can go on.
GONE = ("sentinels.kl", "advantage.map.pca_solver")
# What may differ between a run and its continuation, as prefixes of dotted keys.
FREE = (
    "train.steps",
    "train.save_every",
    "train.keep",
    "train.save_records",
    "train.score_retries",
    "tracker.",
    "sentinels.",
    "eval.",
    "prior.cache",
    "model.embed_cache",
    "reward.cache",
    "reward.canary.",
    "reward.executor",
    "reward.servers",
    "reward.token_env",
    "reward.timeout",
    "reward.patience",
    "reward.max_invalid_steps",
    "reward.hedge",
    "reward.actors",
    "run_dir",
    "resume",
    "dry_run",
    "threads",
    "engine.device",
    "doctor",
)


def resume_config(config: Config, touched: Sequence[str]) -> Config:
    """The configuration of the run that config.resume names, changed where the command line may change it.

    touched: the keys that it named (see `merge_settings`). config.resume is a folder in the result, or null
    where `auto` finds none.
    Raises ConfigError when there is nothing to go on with, or a named value differs that must not.
    """
    folder = find(config)
    if folder is None:
        return replace(config, resume=None, resume_allow=[])
    require_unchanged(folder)
    before = merge_settings(saved_settings(folder), schema.plain(config), touched, config.resume_allow)
    allowed = list(config.resume_allow)
    return replace(
        to_config(before, folder / "config.yaml"), resume=str(folder), resume_allow=allowed, run_dir=None
    )


def require_unchanged(folder: Path) -> None:
    """Refuse a config.yaml of a run that says something else than its newest checkpoint's copy, apart from
    what an earlier resumption changed (RUN/changes.jsonl) or may change at any time. Raises ConfigError.
    """
    copies = [place for place in files.whole(folder) if files.is_unaltered(place, files.CONFIG)]
    if not copies:
        return
    checkpoint = copies[-1]
    now, then = (saved_settings(place) for place in (folder, checkpoint))
    if now == then:
        return
    # Versions may differ in the keys that they know: compare what this one reads.
    new, old = (
        flat(schema.plain(to_config(values, place / files.CONFIG)))
        for values, place in ((now, folder), (then, checkpoint))
    )
    permitted = permission.noted(folder)
    edited = [
        f"{key} is {shown(new.get(key))} there and {shown(old.get(key))} in {checkpoint.name}"
        for key in sorted({*old, *new})
        if new.get(key) != old.get(key)
        and not key.startswith(FREE)
        and (key not in permitted or permitted[key] != new.get(key))
    ]
    if edited:
        raise ConfigError(
            mistake(
                f"resume: {folder / files.CONFIG} was changed by hand since the run wrote it: "
                f"{'; '.join(edited)}",
                f"cp {checkpoint / files.CONFIG} {folder / files.CONFIG}, and the new value beside "
                "resume= with its key in resume_allow",
                why="a checkpoint keeps the settings that it was trained with, and they must agree",
            )
        )


def to_config(nested: dict[str, Any], source: Path) -> Config:
    """A saved configuration as dataclasses. Raises ConfigError when this version knows other keys."""
    try:
        return schema.typed(OmegaConf.merge(OmegaConf.structured(Config), nested))
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{source} does not fit this version of rlvis ({str(error).splitlines()[0]}); type resume=null "
            "for a new run"
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
        files.choose(folder)  # which says what is wrong with each
    return folder


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint lies in a run folder that is whole by names and sizes; `files.choose` reads every
    byte of it before it is used.
    """
    return bool(files.whole(folder))


def saved_settings(folder: Path) -> dict[str, Any]:
    """What config.yaml of a run or a checkpoint says, without keys that are gone since (GONE).

    Raises ConfigError when it cannot be read.
    """
    try:
        value = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{folder / 'config.yaml'} cannot be read: {' '.join(str(error).split())}; each checkpoint of "
            "a run holds a copy (checkpoints/step_NNNNNN/config.yaml)"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{folder / 'config.yaml'} is empty or no mapping; start a new run without resume=")
    for key in GONE:
        *sections, name = key.split(".")
        node: Any = value
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(name, None)
    return value


def merge_settings(
    before: dict[str, Any], now: dict[str, Any], touched: Sequence[str], allowed: Sequence[str] = ()
) -> dict[str, Any]:
    """The configuration of a resumed run: `before`, with those values of `now` that were named and may
    change.

    before, now: nested plain values. touched: dotted keys that the command line named, "model.*" for a
    section, "*" for all. allowed: keys, or sections of keys, that may change (resume_allow).
    Raises ConfigError that lists every named value that differs and may not, and every permission that is of
    no use.
    """
    old, new = flat(before), flat(now)
    permission.check_known(allowed, [*old, *new])
    refused, may, changes = [], [], {}
    for key in sorted({*old, *new} - {"resume_allow"}):
        if not is_named(key, touched) or old.get(key) == new.get(key):
            continue
        if key.startswith(FREE) or old.get(key) == HIDDEN or is_named(key, allowed):
            changes[key] = new.get(key)
        else:
            refused.append(f"{key} was {shown(old.get(key))} and is now {shown(new.get(key))}")
            may += [] if is_named(key, list(permission.FIXED)) else [key]
    if refused:
        which = "this" if len(refused) == 1 else "these"
        permit = f"permit it by name (resume_allow=[{','.join(may)}]), " if may else ""
        raise ConfigError(
            f"resume: {'; '.join(refused)}. A resumed run keeps its settings: leave {which} out, {permit}or "
            "start a new run without resume="
        )
    for name in allowed:
        if not any(is_named(key, [name]) for key in changes):
            raise ConfigError(
                f"resume_allow names {name}, which does not change; type its new value as well, or leave "
                "it out of resume_allow"
            )
    result = copy.deepcopy(before)
    for key, value in changes.items():
        permission.put(result, key, value)
    for section in {key.rpartition(".")[0] for key in changes if key not in new}:  # a section that went
        permission.put(result, section, permission.get(now, section))
    permission.check_possible(before, result)
    hidden = [key for key, value in flat(result).items() if value == HIDDEN]
    if hidden:
        raise ConfigError(
            f"resume: {', '.join(hidden)} was not written into the run folder, being secret; type "
            f"{hidden[0]}=... again"
        )
    return result


def _runs(name: str) -> list[Path]:
    """Run folders of this name, oldest first."""
    found = [f for f in (OUTPUTS / name).glob("*") if (f / "config.yaml").is_file()]
    return sorted(found, key=lambda folder: (manifest.started(folder), folder.name))
