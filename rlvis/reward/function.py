"""A user's function `images, prompts, metadata -> scores` as a scorer, by its dotted path.

A class may stand for the function when something heavy is loaded once: it is constructed with the kwargs and
its instance is called. kwargs are checked against the signature before anything is scored.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvis.reward.contract import Scores

ARGUMENTS = ("images", "prompts", "metadata")


class Function:
    """Calls `function(images, prompts, metadata, **kwargs)` and reads its B scores.

    The function may return a list of numbers, an array, a tensor or Scores; None in a list means that it
    cannot judge that sample. It must not write into `images`. Raises TypeError when it returns anything else.
    """

    def __init__(self, function: Callable[..., Any], kwargs: Mapping[str, Any] | None = None) -> None:
        self.function = function
        self.kwargs = dict(kwargs or {})

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X]; the number of scores is checked by the stage."""
        result = self.function(images, list(prompts), list(metadata), **self.kwargs)
        if isinstance(result, Scores):
            return result
        value = _float64(result, self.function)
        return Scores(value=value, valid=torch.isfinite(value))


def _float64(result: Any, function: Callable[..., Any]) -> Tensor:
    """Whatever holds real numbers as float64 on the CPU, in its shape (the stage checks that)."""
    if isinstance(result, Tensor):
        result = result.detach().cpu().to(torch.float64 if not result.is_complex() else result.dtype)
    if isinstance(result, list | tuple):
        plain = [item.detach().cpu() if isinstance(item, Tensor) else item for item in result]
        result = [math.nan if item is None else item for item in plain]
    array = np.asarray(result)
    if array.dtype.kind not in "biuf":
        what = f"{type(result).__name__} of {array.dtype}" if array.shape else type(result).__name__
        raise TypeError(f"{_name(function)} returned {what}, wanted one real number for each image")
    return torch.from_numpy(array.astype(np.float64))


def load(path: str, kwargs: dict[str, Any], *, known: Mapping[str, str], where: str) -> Function:
    """The scorer called `path`: a key of `known` (name -> dotted path) or a dotted path MODULE.FUNCTION.

    where: the config key that error messages name. Raises ValueError when it does not exist, cannot take
    (images, prompts, metadata), or the kwargs do not fit its signature.
    """
    target = find(known.get(path, path), path, known, where)
    _check_kwargs(target, path, kwargs, where)
    if inspect.isclass(target):
        instance: Any = target(**kwargs)
        return Function(instance)
    return Function(target, kwargs)


def find(dotted: str, path: str, known: Mapping[str, str], where: str) -> Callable[..., Any]:
    """Import MODULE.NAME. An ImportError raised inside the module is not ours to explain and is passed on."""
    module_name, _, name = dotted.rpartition(".")
    near = difflib.get_close_matches(path, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"the built-in ones are {', '.join(known)}"
    if not module_name or not all(part.isidentifier() for part in dotted.split(".")):
        raise ValueError(
            f"{where}.scorer={path!r} is no scorer: {hint}; a function of your own is given as "
            "MODULE.FUNCTION"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ValueError(
            f"{where}.scorer={path}: there is no module {error.name!r} on Python's path ({hint}); "
            "install it, or start from its folder with PYTHONPATH=."
        ) from error
    target = getattr(module, name, None)
    if not callable(target):
        what = "nothing called" if target is None else f"a {type(target).__name__}, not a function, called"
        close = difflib.get_close_matches(name, [n for n in dir(module) if callable(getattr(module, n))], 1)
        raise ValueError(
            f"{where}.scorer={path}: {module_name} has {what} {name}"
            + (f"; did you mean {module_name}.{close[0]}?" if close else "")
        )
    function: Callable[..., Any] = target
    return function


def _check_kwargs(target: Callable[..., Any], path: str, kwargs: Mapping[str, Any], where: str) -> None:
    """Bind the call beforehand: (images, prompts, metadata, **kwargs), or (**kwargs) for a class."""
    signature = inspect.signature(target)
    free = list(signature.parameters.values())
    if inspect.isclass(target):
        call = next((c.__dict__["__call__"] for c in target.__mro__ if "__call__" in c.__dict__), None)
        if call is None:
            raise ValueError(
                f"{where}.scorer={path} is a class whose instances cannot be called; give it "
                f"__call__(self, {', '.join(ARGUMENTS)}), or name a function"
            )
        _bind(inspect.signature(call), ("self", *ARGUMENTS), {}, f"{where}.scorer={path}: its __call__")
        given: tuple[str, ...] = ()
    else:
        _bind_positional(signature, f"{where}.scorer={path}: {_name(target)}{signature}")
        free, given = free[len(ARGUMENTS) :], ARGUMENTS
    names = [p.name for p in free if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in free):
        for key in kwargs:
            if key not in names:
                near = difflib.get_close_matches(key, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(names) or 'none'}"
                raise ValueError(f"{where}.kwargs: {path} has no argument {key!r}; {hint}")
    _bind(signature, given, kwargs, f"{where}.kwargs: {path}{signature}")


def _bind_positional(signature: inspect.Signature, what: str) -> None:
    places = [
        p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    spread = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    if len(places) < len(ARGUMENTS) and not spread:
        raise ValueError(
            f"{what} takes {len(places)} positional arguments; a scorer is called with {', '.join(ARGUMENTS)}"
        )


def _bind(signature: inspect.Signature, given: Sequence[str], kwargs: Mapping[str, Any], what: str) -> None:
    try:
        signature.bind(*given, **kwargs)
    except TypeError as error:
        raise ValueError(f"{what} does not fit: {error}") from error


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
