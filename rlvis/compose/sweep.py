"""The runs of a sweep: every combination of the values that words give, and the same for Hydra's sweepers.

Hydra is handed the runs encoded, so that it counts or searches them and reads nothing of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import hydra
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Quote, QuotedString

from rlvis.compose.command import parse
from rlvis.compose.files import options, session
from rlvis.findings import ConfigError, mistake

LISTS_ONLY = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True)
class Axis:
    """What one word of a sweep stands for: the overrides `values` ("sampler.eta=0.3", "sampler.eta=0.7"; the
    word itself where it is no sweep). interval: Hydra's text of one, whose two ends `values` then holds.
    """

    values: tuple[str, ...]
    interval: str = ""


def axes(words: Sequence[str]) -> list[Axis]:
    """An axis for each word. Raises ConfigError for a pattern that no option fits."""
    search = [word for word in words if word.startswith("hydra.searchpath")]
    return [_axis(parse(word), search) for word in words]


def runs(words: Sequence[str]) -> list[list[str]]:
    """All runs of a sweep as lists of overrides: every combination, the last word changing fastest."""
    return [list(run) for run in itertools.product(*(axis.values for axis in axes(words)))]


def each_value_once(words: Sequence[str]) -> Iterator[list[str]]:
    """The few runs of a sweep in which every value occurs: the first one, then each other value beside the
    first of the rest.
    """
    spread = [axis.values for axis in axes(words)]
    first = [values[0] for values in spread]
    yield first
    for i, values in enumerate(spread):
        for value in values[1:]:
            yield [*first[:i], value, *first[i + 1 :]]


def encode(words: Sequence[str]) -> list[str]:
    """The axes of a sweep as overrides of conf/sweep.yaml: one key a word, its values quoted, so that Hydra
    only counts them; of an interval, whose values a sweeper makes, the key apart.
    """
    encoded = []
    for i, axis in enumerate(axes(words)):
        quoted = [QuotedString(value, Quote.single).with_quotes() for value in axis.values]
        if axis.interval:
            quoted = [QuotedString(axis.values[0].partition("=")[0], Quote.single).with_quotes()]
            encoded.append(f"+run.value{i}={axis.interval}")
        encoded.append(f"+run.word{i}={','.join(quoted)}")
    return encoded


def decode(run: Mapping[str, object]) -> list[str]:
    """The overrides of one run, from what Hydra made of `encode`."""
    words = {name.removeprefix("word"): str(word) for name, word in run.items() if name.startswith("word")}
    return [f"{word}={run[f'value{i}']}" if f"value{i}" in run else word for i, word in words.items()]


def check_sweeper(plugins: Sequence[str], words: Sequence[str]) -> None:
    """Compose the part of a sweep that is Hydra's (launcher, sweeper), from the words `plugins`.

    Raises ConfigError for a key or a plugin that is not there, and for an interval that the sweeper does not
    take.
    """
    with session():
        composed = hydra.compose("sweep", overrides=list(plugins), return_hydra_config=True)
    for axis in axes(words):
        if axis.interval and composed.hydra.sweeper._target_ == LISTS_ONLY:
            key = axis.values[0].partition("=")[0]
            raise ConfigError(
                mistake(
                    f"{key}={axis.interval}: Hydra's basic sweeper takes lists of values",
                    f"{key}=A,B,C or range(1,5), or hydra/sweeper=NAME of a plugin that draws from intervals",
                )
            )


def _axis(override: Override, search: Sequence[str]) -> Axis:
    key, word = override.get_key_element(), str(override.input_line)
    value = override.value()
    if not override.is_sweep_override():
        return Axis((word,))
    if isinstance(value, IntervalSweep):
        return Axis((f"{key}={value.start}", f"{key}={value.end}"), word.partition("=")[2])
    if isinstance(value, Glob):
        known = options(override.key_or_group, search)
        if not (picked := value.filter(known)):
            raise ConfigError(f"{word}: no option of {key} fits; options: {', '.join(known)}")
        return Axis(tuple(f"{key}={option}" for option in picked))
    return Axis(tuple(f"{key}={value}" for value in override.sweep_string_iterator()))
