"""From the words of a command line to one typed configuration, strictly: every key and every option must exist.

Hydra chooses and merges the group files; the values of the command line are then written here, into the schema. Hydra's own
overrides accept any new key after a `+`, fail on optional sections that are null and answer a typo with a stack of exceptions; here
`+` adds nothing to a closed schema, `model.lora.rank=8` turns LoRA on, and every mistake is one ConfigError with the nearest name.
Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import itertools
import types
import typing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.training.checks import ConfigError

CONF = Path(__file__).resolve().parent / "conf"
GROUPS = tuple(f.name for f in dataclasses.fields(schema.Config) if f.name not in ("optim", "train") and dataclasses.is_dataclass(
    typing.get_type_hints(schema.Config)[f.name]
))
WHOLE = ("experiment", "debug")  # groups that may set anything
OPTIONAL_GROUPS = (*GROUPS, *WHOLE)
MULTIPLE = ("reward",)  # groups that take several options at once


@dataclass(frozen=True)
class Composed:
    """A configuration with interpolations, and which of its keys the command line spoke about ("model.*" for a whole group)."""

    config: DictConfig
    touched: tuple[str, ...]

    def typed(self) -> schema.Config:
        """As plain dataclasses, interpolations resolved. Raises ConfigError for what is not set or does not resolve."""
        return typed(self.config)


def compose(words: Sequence[str]) -> Composed:
    """Compose conf/train.yaml with the overrides `words` ("model=sd3", "optim.lr=1e-4", "hydra.searchpath=[DIR]").

    Raises ConfigError for an unknown group, option or key (naming the nearest), and for a value of a wrong type (saying what was
    wanted).
    """
    overrides = [_parse(word) for word in words]
    for override in overrides:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} gives several values; add -m to run one after the other, or quote the value: "
                f"\"{override.key_or_group}='...'\""
            )
    system = [o for o in overrides if o.is_hydra_override()]
    groups = [o for o in overrides if not o.is_hydra_override() and _is_group(o)]
    values = [o for o in overrides if not o.is_hydra_override() and not _is_group(o)]
    for override in system:
        if override.key_or_group != "hydra.searchpath":
            raise ConfigError(
                f"{override.input_line} has no effect on a single run, which makes its own folder and log; type run_dir=DIR for "
                "the folder, or add -m for a sweep"
            )
    config = _merge_files([_group_word(o) for o in groups], [_word(o) for o in system])
    OmegaConf.set_struct(config, False)  # the dataclasses stay closed; open mappings (reward.terms, kwargs) may grow
    for override in values:
        if override.is_delete():
            raise ConfigError(f"{override.input_line}: keys cannot be removed; type {override.key_or_group}=null to unset one")
        assign(config, override.key_or_group, override.value())
    touched = [f"{o.key_or_group}.*" if o.key_or_group in GROUPS else "*" for o in groups]
    return Composed(config, (*touched, *(o.key_or_group for o in values)))


def expand(words: Sequence[str]) -> list[list[str]]:
    """The runs of a sweep: every combination of the values in choices (a,b), ranges and globs, as lists of overrides.

    Raises ConfigError for a sweep over an interval, which has no list of values.
    """
    axes: list[list[str]] = []
    for word in words:
        override = _parse(word)
        if override.is_hydra_override():
            raise ConfigError(f"{word} is not a value to sweep over")
        if not override.is_sweep_override():
            axes.append([word])
        elif not override.is_discrete_sweep():
            raise ConfigError(f"{word}: a sweep takes a list of values, type {override.key_or_group}=A,B,C or range(1,5)")
        else:
            prefix = {"add": "+", "force_add": "++"}.get("force_add" if override.is_force_add() else "add" if override.is_add() else "", "")
            names = options(override.key_or_group) if _is_group(override) else None
            axes.append([f"{prefix}{override.get_key_element()}={value}" for value in _sweep_values(override, names)])
    return [list(choice) for choice in itertools.product(*axes)]


def each_choice(words: Sequence[str]) -> Iterator[list[str]]:
    """The fewest runs of a sweep in which every value occurs: each value once beside the first ones of the other axes."""
    axes = [sorted({run[i]: None for run in runs}, key=[run[i] for run in runs].index) for runs in [expand(words)] for i in range(len(words))]
    first = [axis[0] for axis in axes]
    yield first
    for i, axis in enumerate(axes):
        for value in axis[1:]:
            yield [*first[:i], value, *first[i + 1 :]]


def check_sweep_settings(words: Sequence[str]) -> None:
    """Compose Hydra's own part of a sweep (launcher, sweeper). Raises ConfigError when a key or plugin does not exist."""
    with _loader():
        try:
            hydra.compose("sweep", overrides=list(words), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(_one_line(error)) from error


def options(group: str, search: Sequence[str] = ()) -> list[str]:
    """Names of a group's options: ours and those on the search path, without the schema's own base."""
    with _loader():
        loader = GlobalHydra.instance().config_loader()
        found = loader.get_group_options(group, config_name="train", overrides=list(search))
    return sorted(name for name in found if name != f"base_{group}")


def typed(config: DictConfig) -> schema.Config:
    """A composed configuration as plain dataclasses. Raises ConfigError when a key is not set or an interpolation does not resolve."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        more = f" (nor are {', '.join(missing[1:])})" if missing[1:] else ""
        raise ConfigError(f"{missing[0]} is not set{more}; type {missing[0]}={_wanted_example(config, missing[0])}")
    try:
        return schema.typed(config)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error


def assign(config: DictConfig, key: str, value: Any) -> None:
    """Write `value` at the dotted `key`; a mapping is written key by key, so what it does not name stays.

    Raises ConfigError for a key that the schema does not have and for a value of a wrong type.
    """
    node, kind = config, typing.cast(Any, schema.Config)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        kind = _child(config, kind, part, key)
        if depth == len(parts) - 1:
            break
        if node._get_node(part) is None or node._is_missing_or_none(part) if False else _is_empty(node, part):
            node[part] = OmegaConf.structured(kind) if dataclasses.is_dataclass(kind) else {}
        if not isinstance(node[part], DictConfig):
            raise ConfigError(unknown_key(config, key))
        node = node[part]
    last = parts[-1]
    section = dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict
    if section and isinstance(value, dict):
        if _is_empty(node, last):
            node[last] = OmegaConf.structured(kind) if dataclasses.is_dataclass(kind) else {}
        for name, inner in value.items():
            assign(config, f"{key}.{name}", inner)
        return
    if section and value is not None:
        names = _field_names(kind) or ["NAME"]
        raise ConfigError(f"{key}={value}: {key} is a section, not a value; its keys are {', '.join(names)}: type {key}.{names[0]}=...")
    try:
        node[last] = value
    except OmegaConfBaseException as error:
        raise ConfigError(_wrong_value(key, kind, value, node, last)) from error


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim.lr": 3e-4, ...} of a configuration in plain containers; lists and empty mappings are leaves."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def keys(config: DictConfig) -> list[str]:
    """Every dotted key that can be typed: the schema's, also below sections that are null, and the named reward terms."""
    return list(_keys(schema.Config, config, ""))


def unknown_key(config: DictConfig, key: str) -> str:
    """The message for a key that does not exist, with the nearest ones that do."""
    return f"unknown key {key}; nearest: {', '.join(nearest_keys(key, [*keys(config), *OPTIONAL_GROUPS]))}; `--cfg job` prints all keys"


def nearest_keys(key: str, known: Sequence[str]) -> list[str]:
    """Up to three known keys: those of the same last word first, then those that look alike."""
    last = key.rsplit(".", 1)[-1]
    same = [k for k in known if k.rsplit(".", 1)[-1] == last]
    alike = difflib.get_close_matches(key, known, 3, 0.6)
    if "." not in key or not alike:
        by_last = {k: k.rsplit(".", 1)[-1] for k in known}
        near = difflib.get_close_matches(last, set(by_last.values()), 2, 0.6)
        alike += [k for k, word in by_last.items() if word in near and k not in alike]
    ranked = sorted(dict.fromkeys(same + alike), key=lambda k: -difflib.SequenceMatcher(None, key, k).ratio())
    best = ranked or difflib.get_close_matches(key, known, 1, 0.0)
    return best[:1] if "." in key and ranked and key.rsplit(".", 1)[0] == best[0].rsplit(".", 1)[0] else best[:3]
