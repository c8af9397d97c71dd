"""A user's function `images, prompts, metadata -> scores` as a scorer, by its dotted path.

A class may stand for the function when something heavy is loaded once: it is constructed with the kwargs and
its instance is called.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.named import one_line, place
from rlvis.reward.contract import Scores
from rlvis.reward.facts import SCORERS, fit
from rlvis.reward.serving.background import Background

SCORE = ("score", "scores", "value", "values", "reward", "rewards")  # what a dict may call the scores


class Function:
    """Calls `function(images, prompts, metadata, **kwargs)` and reads its B scores.

    The function may return a list of numbers, an array or a tensor [B] or [B, 1], or Scores; None in a list
    means that it cannot judge that sample. `(scores, dict)`, a dict with "score" and a list of such dicts
    bring further numbers, which become metrics. It may be `async def`. Raises TypeError when it returns
    anything else.
    """

    def __init__(self, function: Callable[..., Any], kwargs: Mapping[str, Any] | None = None) -> None:
        self.function = function
        self.kwargs = dict(kwargs or {})
        self._background = Background()  # of an async function: one loop, so that its connections last

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X]; the number of scores is checked by the stage."""
        result = self.function(images, list(prompts), list(metadata), **self.kwargs)
        if isinstance(result, Awaitable):
            result = self._background.run(_awaited(result))
        if isinstance(result, Scores):
            return result
        result, extras = _parted(result, self.function)
        value = _float64(result, self.function)
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        return Scores(value=value, valid=torch.isfinite(value), extras=extras)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _parted(result: Any, function: Callable[..., Any]) -> tuple[Any, dict[str, Tensor]]:
    """The scores of a result, and the further numbers that came with them, float64 [n] each."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        return result[0], _extras(result[1])
    if isinstance(result, list) and result and all(isinstance(row, Mapping) for row in result):
        names = dict.fromkeys(name for row in result for name in row)
        result = {name: [row.get(name) for row in result] for name in names}
    if not isinstance(result, Mapping):
        return result, {}
    named = [name for name in SCORE if name in result]
    if not named:
        held = ", ".join(map(str, result)) or "nothing"
        raise TypeError(
            f"{_name(function)} returned a dict with {held}: wanted 'score' in it, one number each"
        )
    rest = {name: value for name, value in result.items() if name != named[0]}
    return result[named[0]], _extras(rest)


def _extras(named: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Those entries that are numbers, or lists of them."""
    numbers = {}
    for name, value in named.items():
        try:
            column = _float64(value, str)
        except (TypeError, ValueError, RuntimeError):  # texts, pictures, whatever else a function has to tell
            continue
        numbers[str(name)] = column.flatten()
    return numbers


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


def load(scorer: str, kwargs: Mapping[str, Any], where: str) -> Function:
    """The scorer called `scorer`, made if it is a class. Raises ConfigError as `facts.fit` does, and where
    making it raises.
    """
    target = fit(scorer, kwargs, where)
    if not inspect.isclass(target):
        return Function(target, kwargs)
    try:
        instance: Any = target(**kwargs)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, ValueError) and scorer in SCORERS.names():
            raise  # which says what to type
        what = f"{where}.scorer={scorer} cannot be made: {one_line(error)}"
        raise ConfigError(mistake(what, why=f"raised at {place(error)}")) from error
    return Function(instance)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
