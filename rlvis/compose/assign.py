"""Writing one value into a configuration, with the schema as judge.

Overrides of Hydra's take any new key after a `+` and fail on optional sections that are null. Here the
schema stays closed, and naming a key below a null section turns it on: `model.lora.rank=8` is a LoRA of rank
8 with the other defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.compose import names
from rlvis.findings import ConfigError, mistake


def assign(config: DictConfig, key: str, value: Any) -> None:
    """Write `value` at the dotted `key` in place; a mapping is written key by key, so what it does not name
    stays.

    Raises ConfigError for a key that the schema does not have and for a value of a wrong type.
    """
    key = names.PYTHON_WORDS.get(key, key)
    node: DictConfig = config
    kind: Any = schema.Config
    *parents, last = key.split(".")
    for parent in parents:
        kind = _child(config, kind, parent, key)
        node = _section(config, node, kind, parent, key)
    kind = _child(config, kind, last, key)
    if names.is_section(kind) and value is not None:
        if not isinstance(value, dict):
            inside = list(names.fields(kind)) or ["NAME"]
            raise ConfigError(
                mistake(
                    f"{key}={value}: {key} is a section with the keys {', '.join(inside)}",
                    f"{key}.{inside[0]}=...",
                )
            )
        _section(config, node, kind, last, key)
        for name, inner in value.items():
            assign(config, f"{key}.{name}", inner)
        return
    try:
        node[last] = value
    except OmegaConfBaseException as error:
        raise ConfigError(_wrong_value(key, kind, value)) from error


def unknown(config: DictConfig, key: str) -> str:
    """The message for a key that does not exist, with the nearest ones that do."""
    near = names.nearest(key, [*names.keys(named_entries(config)), *names.WHOLE])
    return f"unknown key {key}; nearest: {', '.join(near)}; --cfg job prints every key"


def named_entries(config: DictConfig) -> dict[str, list[str]]:
    """The names in the open mappings of a composed configuration."""
    entries = {}
    for key in ("reward.terms", "eval.terms"):
        terms = OmegaConf.select(config, key, throw_on_missing=False)
        if terms:
            entries[key] = [str(name) for name in terms]
    return entries


def _child(config: DictConfig, kind: Any, name: str, key: str) -> Any:
    inner = names.child(kind, name)
    if inner is None:
        raise ConfigError(unknown(config, key))
    return inner


def _section(config: DictConfig, node: DictConfig, kind: Any, name: str, key: str) -> DictConfig:
    """The section `name` of node, with its defaults where it is null or not there yet."""
    if name not in node or OmegaConf.is_missing(node, name) or node[name] is None:
        node[name] = OmegaConf.structured(kind) if dataclasses.is_dataclass(kind) else {}
    section = node[name]
    if not isinstance(section, DictConfig):
        raise ConfigError(unknown(config, key))
    return section


def _wrong_value(key: str, kind: Any, value: Any) -> str:
    shown = json.dumps(value) if value is None or isinstance(value, bool) else value  # as it was typed
    message = f"{key}={shown}: wanted {names.wanted(kind)}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and isinstance(value, str):
        near = difflib.get_close_matches(value, list(kind.__members__), 1, 0.5)
        return message + (f"; nearest: {near[0]}" if near else "")
    return message
