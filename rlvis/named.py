"""What a name in a configuration stands for: a module of one of our folders, or a dotted path of the user's.

A folder such as rlvis/trust/priors holds one module an option; the module's ENTRY is the function or class
behind its name. So the folder is the list, nothing else knows the names, and what a user points to with a
dotted path is taken the same way. Names are listed without importing anything.
"""

from __future__ import annotations

import collections.abc
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.schema.key import Key, argument_marks, text

LETTERS = 500  # of an error


@dataclass(frozen=True)
class Folder:
    """The options of one key.

    key: as typed, such as prior.kind. package: the folder with our own. contract: what one of the user's own
    looks like, a line or several of Python, shown when theirs does not fit.
    """

    key: str
    package: str
    contract: str

    def names(self) -> tuple[str, ...]:
        """Names of our own, sorted; nothing is imported but the packages around the folder."""
        spec = importlib.util.find_spec(self.package)
        folders = None if spec is None else spec.submodule_search_locations
        assert folders is not None, f"{self.package}: no folder"
        return tuple(sorted(module.name for module in pkgutil.iter_modules(list(folders))))

    def find(self, name: str, key: str = "") -> Any:
        """The function or class that `name` stands for; key: where it was typed, if not at `self.key`.

        Raises ConfigError where there is none, and for whatever importing the user's module raises.
        """
        if name in self.names():
            return importlib.import_module(f"{self.package}.{name}").ENTRY
        return self._own(name, key or self.key)

    def _own(self, name: str, key: str) -> Any:
        typed = f"{key}={name}"
        module_name, _, attribute = name.replace(":", ".").rpartition(".")
        if not module_name or not all(part.isidentifier() for part in name.replace(":", ".").split(".")):
            raise ConfigError(
                mistake(f"{typed}: {self._hint(name)}; one of your own is given as MODULE.NAME")
            )
        try:
            module = importlib.import_module(module_name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's module may raise anything, SystemExit too
            raise ConfigError(self._unimportable(typed, name, module_name, error)) from error
        target = getattr(module, attribute, None)
        if not callable(target):
            what = "nothing called" if target is None else f"a {type(target).__name__} called"
            close = difflib.get_close_matches(
                attribute, [n for n in dir(module) if callable(getattr(module, n))], 1
            )
            also = f"did you mean {module_name}.{close[0]}?" if close else f"write {self.contract}"
            raise ConfigError(mistake(f"{typed}: {module_name} has {what} {attribute}", why=also))
        return target

    def _unimportable(self, typed: str, name: str, module: str, error: BaseException) -> Finding:
        """Why a module of the user's cannot be imported."""
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module + ".").startswith(missing + "."):
            return mistake(
                f"{typed}: there is no module {missing!r} on Python's path",
                why=f"install it, or start from its folder with PYTHONPATH=.; {self._hint(name)}",
            )
        what, where = f"{typed}: importing {module} raised {one_line(error)}", place(error)
        install = f"pip install {missing.partition('.')[0]}" if missing else ""
        return mistake(what, install, why=f"raised at {where}" if where else "")

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names(), 1)
        return f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names()) or 'none'}"

    def path(self, name: str) -> str:
        """MODULE.NAME of what `name` stands for; nothing is imported."""
        return f"{self.package}.{name}.ENTRY" if name in self.names() else name.replace(":", ".")

    def misfit(self, name: str, why: str, key: str = "") -> ConfigError:
        """The error for one of the user's that does not keep the contract, which it shows."""
        return ConfigError(mistake(f"{key or self.key}={name}: {why}", why=f"wanted {self.contract}"))


def one_line(error: BaseException) -> str:
    """Kind and words of an exception that may be anybody's, in a line."""
    try:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        words = "(its text cannot be had)"
    return " ".join(f"{type(error).__name__}: {words}".split()).removesuffix(":")[:LETTERS]


def place(error: BaseException) -> str:
    """FILE:LINE of the code that raised, outside of Python's import machinery and, where it can be, of
    installed packages (which hook what is raised); empty where unknown.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    frames = [f for f in frames if "site-packages" not in f.filename] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def bind(
    target: Callable[..., Any],
    given: Sequence[str],
    kwargs: Mapping[str, Any],
    what: str,
    *,
    key: str = "",
    contract: str = "",
) -> None:
    """Check that `target` can be called with the positional arguments `given` and `kwargs`, whose values are
    of the types and in the domains that its signature states.

    what: the key and the name, for the message; key: the section that holds kwargs, as reward.terms.x.kwargs;
    contract: what a target looks like, shown where it does not take `given`. Raises ConfigError, naming the
    nearest argument.
    """
    signature = inspect.signature(target)
    parameters = list(signature.parameters.values())
    bare = [p.replace(annotation=p.empty) for p in parameters]  # marks are long to read
    shown = f"{what}{signature.replace(parameters=bare, return_annotation=signature.empty)}"
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    spread = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(places) < len(given) and not spread:
        raise ConfigError(
            mistake(
                f"{shown} takes {len(places)} positional arguments; it is called with {', '.join(given)}",
                why=contract and f"wanted {contract}",
            )
        )
    free = [p for p in parameters if p not in places[: len(given)]]
    names = [p.name for p in free if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in free):
        for name in kwargs:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(names) or 'none'}"
                raise ConfigError(f"{what} has no argument {name!r}; {hint}")
    try:
        signature.bind(*given, **kwargs)
    except TypeError as error:
        raise ConfigError(
            mistake(f"{shown} does not fit: {error}", why=contract and f"wanted {contract}")
        ) from error
    for name, hint, mark in argument_marks(target):
        if name in kwargs:
            usual = signature.parameters[name].default if mark is None or mark.usual is None else mark.usual
            typed = f"{key}.{name}" if key else name
            _judge(kwargs[name], hint, mark, typed, "" if key else f"{what}: ", usual)


def _judge(value: Any, hint: Any, mark: Key | None, name: str, head: str, usual: Any) -> None:
    wanted = "" if fits(value, hint) else _words(hint)
    if not wanted and mark is not None and not mark.admits(value):
        wanted = mark.wanted(value)
    if not wanted:
        return
    remedy = "" if usual in (None, inspect.Parameter.empty) else f"{name}={text(usual)}"
    unit = f" ({mark.unit})" if mark is not None and mark.unit else ""
    raise ConfigError(mistake(f"{head}{name}={text(value)}: wanted {wanted}{unit}", remedy))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that came out of YAML is of the type `hint`; what cannot come out of it fits all."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if hint in (None, type(None)):
        return value is None
    if hint in (int, float):  # a whole number is a float too; true is neither
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if origin in (list, tuple, collections.abc.Sequence):
        whole = isinstance(value, list | tuple)
        return whole and all(fits(one, inner[0]) for one in value if inner)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    return True


def _words(hint: Any) -> str:
    """A type as a user of YAML calls it."""
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if hint in plain:
        return plain[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin in (dict, collections.abc.Mapping):
        return "a mapping"
    return f"a list, each {_words(inner[0])}" if inner else "a list"
