"""The runs of a sweep: every combination of the values that words give, and the same for Hydra's launchers.

Hydra is handed the runs encoded, so that it counts them and reads nothing of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import hydra
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlvis.compose.command import hydra_session, one_line, parse
from rlvis.findings import ConfigError, mistake


def axes(words: Sequence[str]) -> list[list[str]]:
    """What each word of a sweep stands for: "eta=0.3,0.7" -> ["eta=0.3", "eta=0.7"]; a word without a sweep
    stands for itself.

    Raises ConfigError for an interval, which has no list of values.
    """
    return [_axis(parse(word)) for word in words]


def runs(words: Sequence[str]) -> list[list[str]]:
    """All runs of a sweep as lists of overrides: every combination, the last word changing fastest."""
    return [list(run) for run in itertools.product(*axes(words))]


def each_value_once(words: Sequence[str]) -> Iterator[list[str]]:
    """The few runs of a sweep in which every value occurs: the first one, then each other value beside the
    first of the rest.
    """
    spread = axes(words)
    first = [values[0] for values in spread]
    yield first
    for i, values in enumerate(spread):
        for value in values[1:]:
            yield [*first[:i], value, *first[i + 1 :]]


def encode(words: Sequence[str]) -> list[str]:
    """The axes of a sweep as overrides of conf/sweep.yaml: one key a word, its values quoted, so that Hydra
    only counts them.
    """
    quoted = [[QuotedString(value, Quote.single).with_quotes() for value in values] for values in axes(words)]
    return [f"+run.w{i}={','.join(values)}" for i, values in enumerate(quoted)]


def check_sweeper(words: Sequence[str]) -> None:
    """Compose the part of a sweep that is Hydra's (launcher, sweeper).

    Raises ConfigError for a key or a plugin that is not there.
    """
    with hydra_session():
        try:
            hydra.compose("sweep", overrides=list(words), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(one_line(error)) from error


def _axis(override: Override) -> list[str]:
    word = str(override.input_line)
    if not override.is_sweep_override():
        return [word]
    if override.is_interval_sweep():
        raise ConfigError(
            mistake(
                f"{word}: a sweep here takes a list of values", f"{override.key_or_group}=A,B,C or range(1,5)"
            )
        )
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise ConfigError(mistake(f"{word}: glob() is not read here", f"{override.key_or_group}=A,B,C"))
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
