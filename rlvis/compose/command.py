"""One configuration from the words of a command line.

Hydra chooses and merges the group files (`files`); the values come after, through `assign`. Every mistake is
one ConfigError.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.compose import files, names
from rlvis.compose.assign import assign, remove
from rlvis.compose.typed_wins import differences, taken
from rlvis.findings import ConfigError, mistake
from rlvis.schema.key import marks, text

SEVERAL = ("reward",)  # groups that take several options at once: reward=[coverage,jpeg]
RUN_FOLDER = "hydra.run.dir"  # Hydra's word for run_dir
OURS = ("hydra.searchpath", RUN_FOLDER)  # words about Hydra that mean something to a single run
Replaced = dict[str, tuple[Any, Any]]  # key -> the experiment's value, the option's


@dataclass(frozen=True)
class Composed:
    """A configuration that may still hold interpolations, and what the command line said.

    touched: dotted keys that it spoke about, "model.*" for a whole section, "*" for everything (an experiment
    was named). choices: the words from which Hydra composes the same files. replaced: the line about values
    of an experiment that typed options replaced, or "".
    """

    config: DictConfig
    touched: tuple[str, ...]
    choices: tuple[str, ...] = ()
    replaced: str = ""

    def typed(self) -> schema.Config:
        """As plain dataclasses. Raises ConfigError for a key that is not set or an interpolation that does
        not resolve.
        """
        try:
            missing = sorted(OmegaConf.missing_keys(self.config))
            if not missing:
                return schema.typed(self.config)
        except OmegaConfBaseException as error:
            raise ConfigError(files.one_line(error)) from error
        also = f" (nor {', '.join(missing[1:])})" if missing[1:] else ""
        raise ConfigError(mistake(f"{missing[0]} is not set{also}", f"{missing[0]}=..."))


def compose(words: Sequence[str]) -> Composed:
    """Compose conf/train.yaml with overrides such as "model=sd3", "optim.lr=1e-4", "hydra.searchpath=[DIR]".

    Raises ConfigError for an unknown group, option or key (naming the nearest), and for a value of a wrong
    type (saying what was wanted).
    """
    overrides = [_for_one_run(parse(word)) for word in words]
    search = [str(o.input_line) for o in overrides if o.is_hydra_override()]
    named = {o.key_or_group: o for o in overrides if _chooses(o)}
    chosen = {group: o for group, o in named.items() if group not in names.WHOLE or o.value() is not None}
    values = [o for o in overrides if not o.is_hydra_override() and not _chooses(o)]
    choices = {group: _choice(o, search) for group, o in chosen.items()}
    config, replaced = _merged(choices, search)
    for override in values:
        key = override.key_or_group
        remove(config, key) if override.is_delete() else assign(config, key, override.value())
        replaced = {k: v for k, v in replaced.items() if not f"{k}.".startswith(f"{key}.")}
    touched = ["*" if group in names.WHOLE else f"{group}.*" for group in chosen]
    touched += [o.key_or_group for o in values]
    return Composed(config, tuple(touched), (*choices.values(), *search), _told(replaced, chosen))


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
    if override.package is not None:
        raise ConfigError(
            mistake(
                f"{word}: options go into their own section, where alone rlvis reads them",
                f"{override.key_or_group}={override.get_value_element_as_str()}",
            )
        )
    return override


def _for_one_run(override: Override) -> Override:
    """The override, in our words where it is in Hydra's; what a single run does not take is refused."""
    key, word = override.key_or_group, override.input_line
    if override.is_sweep_override():
        raise ConfigError(
            f"{word} gives several values: add -m to run one after the other, or quote one value: "
            f"\"{key}='...'\""
        )
    if key == RUN_FOLDER:
        return parse(f"run_dir={override.get_value_element_as_str()}")
    if override.is_hydra_override() and key != "hydra.searchpath":
        raise ConfigError(
            mistake(
                f"{word} has no effect on a single run, which makes its own folder and log", "-m beside it"
            )
        )
    if override.is_delete() and _chooses(override):
        return parse(f"{key}={'null' if key in names.WHOLE else 'none'}")
    return override


def _chooses(override: Override) -> bool:
    """Whether it names an option; a mapping holds values of the section instead, as Hydra reads it."""
    return override.key_or_group in names.choices() and not isinstance(override.value(), dict)


def _choice(override: Override, search: Sequence[str]) -> str:
    """The word of a group as Hydra takes it, its options checked."""
    group, value = override.key_or_group, override.value()
    picked = value if isinstance(value, list) else [value]
    known = files.options(group, search)
    for option in picked:
        if str(option) not in known:
            near = difflib.get_close_matches(str(option), known, 1, 0.5)
            raise ConfigError(
                f"{group} has no option {text(option)}{f'; nearest: {near[0]}' if near else ''}; options: "
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


def _merged(choices: Mapping[str, str], search: Sequence[str]) -> tuple[DictConfig, Replaced]:
    """The files of the chosen options, merged so that a typed option wins over an experiment, and what was
    replaced of the experiment.
    """
    read = files.read(choices.values(), search)
    config = copy.deepcopy(read.merged)
    replaced: Replaced = {}
    whole = [word for group, word in choices.items() if group in names.WHOLE]
    groups = [group for group in choices if group not in names.WHOLE]
    for group in groups if whole else ():
        before, alone = files.read(whole, search), files.read([choices[g] for g in groups], search)
        budget = [key for key, mark in marks(names.child(schema.Config, group)).items() if mark.budget]
        held, fresh = files.plain(config[group]), files.plain(alone.merged[group])
        for key in sorted(taken(read.written[group], before.written[group], budget)):
            replaced |= differences(f"{group}.{key}", held[key], fresh[key])
            # the node itself, with its interpolations, and where it is not set yet
            config[group][key] = alone.merged[group]._get_node(key)
    return config, replaced


def _told(replaced: Replaced, chosen: Mapping[str, Override]) -> str:
    """One line about the values of an experiment that typed options replaced; empty where there are none."""
    whole = [str(o.input_line) for group, o in chosen.items() if group in names.WHOLE]
    groups = dict.fromkeys(key.split(".")[0] for key in replaced)
    options = [str(chosen[group].input_line) for group in groups]
    values = (f"{key}={text(now)} (was {text(was)})" for key, (was, now) in replaced.items())
    return f"{' '.join(options)} over {' '.join(whole)}: {', '.join(values)}" if replaced else ""
