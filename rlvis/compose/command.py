"""One configuration from the words of a command line.

Hydra chooses and merges the group files; the values come after, through `assign`. Every mistake is one
ConfigError.
"""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.compose import names
from rlvis.compose.assign import assign, unknown
from rlvis.findings import ConfigError, mistake

CONF = Path(__file__).resolve().parents[1] / "conf"
SEVERAL = ("reward",)  # groups that take several options at once: reward=[coverage,jpeg]


@dataclass(frozen=True)
class Composed:
    """A configuration that may still hold interpolations, and the keys that the command line spoke about.

    touched: dotted keys, "model.*" for a whole section, "*" for everything (an experiment was named).
    """

    config: DictConfig
    touched: tuple[str, ...]

    def typed(self) -> schema.Config:
        """As plain dataclasses. Raises ConfigError for a key that is not set or an interpolation that does
        not resolve.
        """
        try:
            missing = sorted(OmegaConf.missing_keys(self.config))
            if not missing:
                return schema.typed(self.config)
        except OmegaConfBaseException as error:
            raise ConfigError(one_line(error)) from error
        also = f" (nor {', '.join(missing[1:])})" if missing[1:] else ""
        raise ConfigError(mistake(f"{missing[0]} is not set{also}", f"{missing[0]}=..."))


def compose(words: Sequence[str]) -> Composed:
    """Compose conf/train.yaml with overrides such as "model=sd3", "optim.lr=1e-4", "hydra.searchpath=[DIR]".

    Raises ConfigError for an unknown group, option or key (naming the nearest), and for a value of a wrong
    type (saying what was wanted).
    """
    overrides = [parse(word) for word in words]
    for override in overrides:
        _refuse(override)
    search = [_text(o) for o in overrides if o.is_hydra_override()]
    chosen = [o for o in overrides if _names_group(o)]
    values = [o for o in overrides if not o.is_hydra_override() and not _names_group(o)]
    config = _merged(
        [_choice(o, search) for o in chosen if o.value() is not None or o.key_or_group not in names.WHOLE],
        search,
    )
    OmegaConf.set_struct(
        config, False
    )  # dataclasses stay closed; open mappings (reward.terms, kwargs) may grow
    for override in values:
        assign(config, override.key_or_group, override.value())
    touched = ["*" if o.key_or_group in names.WHOLE else f"{o.key_or_group}.*" for o in chosen]
    return Composed(config, (*touched, *(o.key_or_group for o in values)))


def parse(word: str) -> Override:
    """One override by Hydra's grammar. Raises ConfigError when it is not KEY=VALUE."""
    try:
        override: Override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        if "=" not in word:
            raise ConfigError(
                f"{word}: wanted KEY=VALUE, such as model=sd3 or optim.lr=1e-4; --help shows examples"
            ) from error
        key, _, value = word.partition("=")
        raise ConfigError(
            f"{word}: {value} is no plain word, number or list; quote it: \"{key}='{value}'\""
        ) from error
    return override


def options(group: str, search: Sequence[str] = ()) -> list[str]:
    """Names of a group's options: ours and those on the search path."""
    return list(_our_options(group)) if not search else _read_options(group, search)


@cache
def _our_options(group: str) -> tuple[str, ...]:
    return tuple(_read_options(group, ()))


def _read_options(group: str, search: Sequence[str]) -> list[str]:
    with hydra_session():
        loader = GlobalHydra.instance().config_loader()
        listed: list[str] = loader.get_group_options(group, config_name="train", overrides=list(search))
    return sorted(name for name in listed if name != f"base_{group}")


def one_line(error: BaseException) -> str:
    """The text of an exception on one line, the cause's where that says more."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause).split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("reference_type", "object_type", "See https"))]
    return "; ".join(line.replace("full_key: ", "at ") for line in kept)


def _refuse(override: Override) -> None:
    """What the grammar allows and a single run does not."""
    key, word = override.key_or_group, override.input_line
    if override.is_sweep_override():
        raise ConfigError(
            f"{word} gives several values: add -m to run one after the other, or quote one value: "
            f"\"{key}='...'\""
        )
    if override.is_hydra_override() and key != "hydra.searchpath":
        raise ConfigError(
            mistake(
                f"{word} has no effect on a single run, which makes its own folder and log",
                "run_dir=DIR for the folder, or add -m",
            )
        )
    if override.package is not None:
        raise ConfigError(
            mistake(
                f"{word}: options go into their own section", f"{key}={override.get_value_element_as_str()}"
            )
        )
    if override.is_delete():
        raise ConfigError(mistake(f"{word}: nothing can be removed, only unset", f"{key}=null"))


def _names_group(override: Override) -> bool:
    return override.key_or_group in (*names.groups(), *names.WHOLE)


def _text(override: Override) -> str:
    return f"{override.key_or_group}={override.get_value_element_as_str()}"


def _choice(override: Override, search: Sequence[str]) -> str:
    """The word of a group as Hydra takes it, its options checked."""
    group, value = override.key_or_group, override.value()
    picked = value if isinstance(value, list) else [value]
    known = options(group, search)
    for option in picked:
        if str(option) not in known:
            near = difflib.get_close_matches(str(option), known, 1, 0.5)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ConfigError(
                f"{group} has no option {'null' if option is None else option}{hint}; options: "
                f"{', '.join(known)}"
            )
    if isinstance(value, list) and group not in SEVERAL:
        raise ConfigError(
            mistake(
                f"{group} takes one option, got {len(value)}: {', '.join(map(str, value))}",
                f"{group}={value[0]}",
            )
        )
    return f"{group}=[{','.join(map(str, picked))}]" if group in SEVERAL else f"{group}={value}"


def _merged(choices: Sequence[str], search: Sequence[str]) -> DictConfig:
    """The files of the chosen options, merged by Hydra over the schema."""
    if search:  # somebody's folder, which may change while we run
        return _read(choices, search)
    return copy.deepcopy(_ours(tuple(choices)))


@lru_cache(maxsize=64)
def _ours(choices: tuple[str, ...]) -> DictConfig:
    return _read(choices, ())


def _read(choices: Sequence[str], search: Sequence[str]) -> DictConfig:
    with hydra_session(), warnings.catch_warnings():
        warnings.filterwarnings("error", ".*is not available")  # of a search path; a mistake, not a remark
        try:
            return hydra.compose("train", overrides=[*choices, *search])
        except (HydraException, OmegaConfBaseException, UserWarning, ValueError) as error:
            raise ConfigError(_file_message(error)) from error


def _file_message(error: BaseException) -> str:
    """A mistake inside a yaml file: its unknown key with the nearest one, else what the loader says."""
    text = str(error)
    file, key = re.search(r"In '([^']+)'", text), re.search(r"full_key: (\S+)", text)
    if file and key and " not in '" in text:
        return f"{file[1]}.yaml has an {unknown(OmegaConf.create(), key[1])}"
    return one_line(error)


@contextmanager
def hydra_session() -> Iterator[None]:
    """Hydra on our conf/, whatever ran before in this process, and its state put back after."""
    schema.register()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), job_name="rlvis", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)
