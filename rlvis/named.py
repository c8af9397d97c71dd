"""What a name in a configuration stands for: a module of one of our folders, or a dotted path of the user's.

A folder such as rlvis/trust/priors holds one module an option; the module's ENTRY is the function or class
behind its name. So the folder is the list, nothing else knows the names, and what a user points to with a
dotted path is taken the same way. Names are listed without importing anything.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvis.findings import ConfigError, mistake
from rlvis.schema.key import Key, argument_marks


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
        assert spec is not None and spec.submodule_search_locations is not None, f"{self.package}: no folder"
        return tuple(sorted(m.name for m in pkgutil.iter_modules(list(spec.submodule_search_locations))))

    def find(self, name: str, key: str = "") -> Any:
        """The function or class that `name` stands for; key: where it was typed, if not at `self.key`.

        Raises ConfigError where there is none; an ImportError raised inside the module is not ours to
        explain and is passed on.
        """
        if name in self.names():
            return importlib.import_module(f"{self.package}.{name}").ENTRY
        return self._own(name, key or self.key)

    def _own(self, name: str, key: str) -> Any:
        typed = f"{key}={name}"
        module_name, _, attribute = name.replace(":", ".").rpartition(".")
        if not module_name or not all(part.isidentifier() for part in name.replace(":", ".").split(".")):
            near = difflib.get_close_matches(name, self.names(), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names())}"
            raise ConfigError(mistake(f"{typed}: {hint}; one of your own is given as MODULE.NAME"))
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise
            raise ConfigError(
                mistake(
                    f"{typed}: there is no module {error.name!r} on Python's path",
                    why=f"install it, or start from its folder with PYTHONPATH=.; {self._hint(name)}",
                )
            ) from error
        target = getattr(module, attribute, None)
        if not callable(target):
            what = "nothing called" if target is None else f"a {type(target).__name__} called"
            close = difflib.get_close_matches(
                attribute, [n for n in dir(module) if callable(getattr(module, n))], 1
            )
            also = f"did you mean {module_name}.{close[0]}?" if close else f"write {self.contract}"
            raise ConfigError(mistake(f"{typed}: {module_name} has {what} {attribute}", why=also))
        return target

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names(), 1)
        return f"did you mean {near[0]}?" if near else f"the built-in ones are {', '.join(self.names())}"

    def misfit(self, name: str, why: str, key: str = "") -> ConfigError:
        """The error for one of the user's that does not keep the contract, which it shows."""
        return ConfigError(mistake(f"{key or self.key}={name}: {why}", why=f"wanted {self.contract}"))


def bind(target: Callable[..., Any], given: Sequence[str], kwargs: Mapping[str, Any], what: str) -> None:
    """Check that `target` can be called with the positional arguments `given` and `kwargs`, whose values lie
    in the domains that its signature states.

    what: the key and the name, for the message. Raises ConfigError, naming the nearest argument.
    """
    signature = inspect.signature(target)
    parameters = list(signature.parameters.values())
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    spread = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(places) < len(given) and not spread:
        raise ConfigError(
            f"{what}{signature} takes {len(places)} positional arguments; it is called with "
            f"{', '.join(given)}"
        )
    free = [p for p in parameters if p not in places[: len(given)]]
    names = [p.name for p in free if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in free):
        for key in kwargs:
            if key not in names:
                near = difflib.get_close_matches(key, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(names) or 'none'}"
                raise ConfigError(f"{what} has no argument {key!r}; {hint}")
    try:
        signature.bind(*given, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{what}{signature} does not fit: {error}") from error
    for name, kind, mark in argument_marks(target):
        if name in kwargs:
            _judge(kwargs[name], kind, mark, f"{what}: {name}={kwargs[name]}")


def _judge(value: Any, kind: Any, mark: Key | None, what: str) -> None:
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{what}: wanted true or false")
    if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"{what}: wanted a number")
    if kind is int and not isinstance(value, int):
        raise ConfigError(f"{what}: wanted a whole number")
    if mark is not None and not mark.admits(value):
        raise ConfigError(f"{what}: wanted {mark.domain() or 'a finite number'}")


