"""The one rule for the values of single keys: each lies in the domain that the schema states beside it, and
none is set that nothing reads.

What ties keys to each other in other ways is the business of the other modules here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlvis.findings import Finding, mistake
from rlvis.schema import Config
from rlvis.schema.key import Key, key_of, text


def domain_errors(config: Config, sections: Sequence[str] = ()) -> Iterator[Finding]:
    """Values outside of their domain; keys that are set and that nothing reads only once all else holds.

    sections: first words of the keys that are looked at; none: all.
    """
    known = {leaf.name: leaf for leaf in _leaves(config)}
    keys = [leaf for leaf in known.values() if not sections or leaf.name.split(".")[0] in sections]
    wrong = [finding for leaf in keys for finding in _outside(leaf)]
    yield from wrong or (finding for leaf in keys for finding in _idle(leaf, known))


class _Leaf(NamedTuple):
    """One key: its dotted name, value, mark, and default (MISSING where it has none)."""

    name: str
    value: Any
    mark: Key
    default: Any


def _leaves(section: Any, prefix: str = "") -> Iterator[_Leaf]:
    """Every marked key below a section that is not null."""
    hints = typing.get_type_hints(type(section), include_extras=True)
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{name}.")
        elif isinstance(value, dict) and any(dataclasses.is_dataclass(inner) for inner in value.values()):
            for entry, inner in value.items():
                yield from _leaves(inner, f"{name}.{entry}.")
        mark = key_of(hints[field.name])[1]
        if mark is not None:
            yield _Leaf(name, value, mark, _default(field))


def _default(field: dataclasses.Field[Any]) -> Any:
    """The value of a key that nobody sets; MISSING where it has none."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _outside(leaf: _Leaf) -> Iterator[Finding]:
    name, value, mark, default = leaf
    if mark.admits(value):
        return
    usual = default if mark.usual is None else mark.usual
    yield mistake(
        f"{name}={text(value)}: wanted {mark.wanted(value)}" + (f" ({mark.unit})" if mark.unit else ""),
        "" if usual in (None, dataclasses.MISSING, "???") and mark.usual is None else f"{name}={text(usual)}",
    )


def _idle(leaf: _Leaf, known: Mapping[str, _Leaf]) -> Iterator[Finding]:
    """Whether a key is set although none of the conditions holds under which it is read."""
    name, value, mark, default = leaf
    if value == default or not mark.only:
        return
    states = []
    for condition in mark.only:
        key, _, wanted = condition.partition("=")
        actual = known[key].value
        if text(actual) in wanted.split("|") or (wanted == "set" and actual not in (None, 0, False)):
            return
        states.append(f"{key}={text(actual)}")
    yield mistake(
        f"{name}={text(value)} does nothing with {' and '.join(dict.fromkeys(states))}",
        f"{' or '.join(_typed(condition, known) for condition in mark.only)}, or {name}={text(default)}",
    )


def _typed(condition: str, known: Mapping[str, _Leaf]) -> str:
    """A condition as something to type: its first value, or the usual one of a key that must be set."""
    key, _, wanted = condition.partition("=")
    return f"{key}={text(known[key].mark.usual) if wanted == 'set' else wanted.split('|')[0]}"
