"""Writing one value into a configuration, with the schema as judge.

Overrides of Hydra's take any new key after a `+` and fail on optional sections that are null. Here the
schema stays closed, and naming a key below a null section turns it on: `model.lora.rank=8` is a LoRA of rank
8 with the other defaults.
"""

from __future__ import annotations

import difflib
import enum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from rlvis import schema
from rlvis.compose import names
from rlvis.findings import ConfigError, mistake
from rlvis.schema.key import text


def assign(config: DictConfig, key: str, value: Any) -> None:
    """Write `value` at the dotted `key` in place; a mapping is written key by key, so what it does not name
    stays.

    Raises ConfigError for a key that the schema does not have and for a value of a wrong type.
    """
    key = names.PYTHON_WORDS.get(key, key)
    kind = names.child(schema.Config, key)
    if kind is None:
        raise ConfigError(unknown(config, key))
    if names.is_section(kind) and value is not None and not isinstance(value, dict):
        inside = list(names.fields(kind)) or ["NAME"]
        what = f"{key}={value}: {key} is a section with the keys {', '.join(inside)}"
        raise ConfigError(mistake(what, f"{key}.{inside[0]}=..."))
    if names.is_section(kind) and value:
        for name, inner in value.items():
            assign(config, f"{key}.{name}", inner)
        return
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    try:
        if kind is bool and str(value).lower() not in ("true", "false", "none") and "${" not in str(value):
            raise ValidationError  # to OmegaConf 2 is true, and so is on
        config.merge_with(nested)  # which turns null sections on
    except OmegaConfBaseException as error:
        raise ConfigError(_wrong_value(key, kind, value)) from error


def remove(config: DictConfig, key: str) -> None:
    """Take an entry out of an open mapping, as a term of the reward. Raises ConfigError for other keys."""
    section, _, last = key.rpartition(".")
    node = OmegaConf.select(config, section, throw_on_missing=False) if section else None
    if isinstance(node, DictConfig) and OmegaConf.get_type(node) is dict and last in node:
        del node[last]
    else:
        raise ConfigError(mistake(f"~{key}: nothing can be removed here, only unset", f"{key}=null"))


def unknown(config: DictConfig, key: str) -> str:
    """The message for a key that does not exist, with the nearest ones that do."""
    found = {name: OmegaConf.select(config, name, throw_on_missing=False) for name in names.OPEN}
    known = names.keys({name: [str(entry) for entry in terms or ()] for name, terms in found.items()})
    near = names.nearest(key, [*known, *names.WHOLE])
    return f"unknown key {key}; nearest: {', '.join(near)}; --cfg job prints every key"


def _wrong_value(key: str, kind: Any, value: Any) -> str:
    message = f"{key}={text(value)}: wanted {names.wanted(kind)}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and isinstance(value, str):
        near = difflib.get_close_matches(value, list(kind.__members__), 1, 0.5)
        return message + (f"; nearest: {near[0]}" if near else "")
    return message
