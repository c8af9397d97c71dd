"""What a configuration key means and which values it takes, said beside its type.

`eta: Annotated[float, Key("noise level", least=0)] = 0.7`: checks, docs/configuration.md, `--help GROUP` and
the resolution of options read it from here, so a fact about a key stands once. Keyword arguments of scorers,
priors and the like carry the same marks in their signatures.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import operator
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
        if self.least is not None and self.most is not None:
            return f"{number(self.least)} to {number(self.most)}"
        return " and ".join(words for words, _, _ in self._bounds())

    def wanted(self, value: Any) -> str:
        """What a value outside of the domain misses: "at least 1"."""
        if isinstance(value, list | tuple):
            inner = next((self.wanted(one) for one in value if not self.admits(one)), self.domain())
            size = "" if self.length is None else f"a list of {self.length}"
            return ", each ".join(part for part in (size, inner) if part)
        if isinstance(value, str):
            return "text that is not empty and has no line breaks" if self.choices is None else self.domain()
        if isinstance(value, int | float) and self.choices is None:
            broken = [words for words, bound, holds in self._bounds() if not holds(value, bound)]
            return broken[0] if math.isfinite(value) and broken else f"a finite number, {self.domain()}"
        return self.domain()

    def _bounds(self) -> list[tuple[str, Number, Callable[[Any, Any], bool]]]:
        """Each bound in words, as a number, and the comparison that holds for what it admits."""
        each = (
            ("at least", self.least, operator.ge),
            ("above", self.above, operator.gt),
            ("at most", self.most, operator.le),
            ("below", self.below, operator.lt),
        )
        return [
            (f"{words} {number(bound)}", bound, holds) for words, bound, holds in each if bound is not None
        ]

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
        return math.isfinite(value) and all(holds(value, bound) for _, bound, holds in self._bounds())


def number(value: Number) -> str:
    """A bound as it is read: 0.5, 100000, 1e-06."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def key_of(hint: Any) -> tuple[Any, Key | None]:
    """A type hint without its mark, and the mark; None where it has none."""
    if typing.get_origin(hint) is typing.Annotated:
        bare, *marks = typing.get_args(hint)
        return bare, next((mark for mark in marks if isinstance(mark, Key)), None)
    return hint, None


def marks(section: Any) -> dict[str, Key]:
    """Field name -> mark of a dataclass (or an instance of it); fields without one are left out."""
    hints = typing.get_type_hints(
        section if isinstance(section, type) else type(section), include_extras=True
    )
    found = {field.name: key_of(hints[field.name])[1] for field in dataclasses.fields(section)}
    return {name: mark for name, mark in found.items() if mark is not None}


def argument_marks(target: Callable[..., Any]) -> Iterator[tuple[str, Any, Key | None]]:
    """(name, type, mark) of the arguments of a function, or of what constructs a class."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # somebody else's annotations, which need not be importable
        hints = {}
    for name in inspect.signature(target).parameters:
        yield (name, *key_of(hints.get(name, Any)))


def text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, str):
        return value if value.strip() == value != "" and "\n" not in value else repr(str(value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text, value))}]"
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
