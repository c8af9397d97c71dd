"""What a configuration key means and which values it takes, said beside its type.

`eta: Annotated[float, Key("noise level", least=0)] = 0.7`: checks, docs/configuration.md, `--help GROUP` and
the resolution of options read it from here, so a fact about a key stands once. Keyword arguments of scorers,
priors and the like carry the same marks in their signatures.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Number = int | float


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    about: what it is, for a reader of docs/configuration.md. unit: of its numbers. least, most: bounds that
    it may take; above, below: bounds that it may not. Every number must be finite. choices: the only values.
    length: of a list. Bounds hold for each number of a list. relation: what ties it to another key, in words
    (a rule of rlvis.checks holds it). only: conditions KEY=A|B, one of which must hold, or it is not read.
    usual: what a message tells to type in place of a wrong value (else the default). path: a file, folder or
    address. budget: the size of a run, which no option of a group replaces. samples: a sample depends on it.
    """

    about: str
    unit: str = ""
    _: dataclasses.KW_ONLY
    least: Number | None = None
    most: Number | None = None
    above: Number | None = None
    below: Number | None = None
    choices: tuple[Any, ...] | None = None
    length: int | None = None
    relation: str = ""
    only: tuple[str, ...] = ()
    usual: Any = None
    path: bool = False
    budget: bool = False
    samples: bool = False

    @property
    def bounded(self) -> bool:
        """Whether it says which numbers it takes."""
        bounds = (self.least, self.most, self.above, self.below, self.choices)
        return any(bound is not None for bound in bounds)

    def domain(self) -> str:
        """The values it takes, in words; empty where anything of its type goes."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        bottom = "" if low is None else f"above {low:g}" if self.least is None else f"at least {low:g}"
        top = "" if high is None else f"below {high:g}" if self.most is None else f"at most {high:g}"
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return " and ".join(part for part in (bottom, top) if part)

    def admits(self, value: Any) -> bool:
        """Whether `value` lies in the domain; null always does (its type says whether null is taken)."""
        if isinstance(value, list | tuple):
            right = self.length is None or len(value) == self.length
            return right and all(self.admits(one) for one in value)
        if value is None:
            return True
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, str) and self.path:
            return bool(value.strip()) and not any(ord(letter) < 32 for letter in value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def key_of(hint: Any) -> tuple[Any, Key | None]:
    """A type hint without its mark, and the mark; the one inside `X | None` counts too."""
    if typing.get_origin(hint) is typing.Annotated:
        bare, *marks = typing.get_args(hint)
        return bare, next((mark for mark in marks if isinstance(mark, Key)), None)
    return hint, None


def marks(section: Any) -> dict[str, Key]:
    """Field name -> mark of a dataclass (or an instance of it); fields without one are left out."""
    hints = typing.get_type_hints(section if isinstance(section, type) else type(section), include_extras=True)
    found = {field.name: key_of(hints[field.name])[1] for field in dataclasses.fields(section)}
    return {name: mark for name, mark in found.items() if mark is not None}


def argument_marks(target: Callable[..., Any]) -> Iterator[tuple[str, Any, Key | None]]:
    """(name, type, mark) of the arguments of a function, or of what constructs a class."""
    function = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # somebody else's annotations, which need not be importable
        hints = {}
    for name in inspect.signature(target).parameters:
        yield (name, *key_of(hints.get(name, Any)))
