"""A user's function `images, prompts, metadata -> scores` as a scorer, by its dotted path.

A class may stand for the function when something heavy is loaded once: it is constructed with the kwargs and
its instance is called.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvis.reward.contract import Scores
from rlvis.reward.facts import fit


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


def load(scorer: str, kwargs: Mapping[str, Any], where: str) -> Function:
    """The scorer called `scorer`, made if it is a class. Raises ConfigError as `facts.fit` does."""
    target = fit(scorer, kwargs, where)
    if inspect.isclass(target):
        instance: Any = target(**kwargs)
        return Function(instance)
    return Function(target, kwargs)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
