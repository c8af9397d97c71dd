"""Encoding with modules that have no weights: zeros stand in for the values that pipelines look at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from rlvis.models.policy import Policy


@contextmanager
def bridge(policy: Policy) -> Iterator[None]:
    """Inside it the policy encodes on the CPU around modules on the meta device, whose results come back as
    zeros: pipelines look at the values of masks and lengths in between.
    """
    methods = [
        (part, name)
        for part in policy.pipe.components.values()
        if isinstance(part, nn.Module)
        for name in ("forward", "encode")
        if hasattr(part, name)
    ]
    before, policy.device = policy.device, torch.device("cpu")
    answers = _Answers()  # type: ignore[no-untyped-call]
    for part, name in methods:
        setattr(part, name, _through(getattr(part, name), answers))
    try:
        yield
    finally:
        policy.device = before
        for part, name in methods:
            delattr(part, name)  # the class's own again


class _Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers 1 (yes) to whoever asks for the value of a tensor that has none: encoders ask whether their
    mask is all ones, which it is for a prompt that fills it.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return torch.ones((), dtype=args[0].dtype).item()
        return function(*args, **(kwargs or {}))


def _through(method: Callable[..., Any], answers: _Answers) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(lambda leaf: _move(leaf, "meta"), (args, kwargs))
        with answers:
            result = method(*args, **kwargs)
        return tree_map(lambda leaf: _move(leaf, "cpu"), result)

    return run


def _move(leaf: Any, device: str) -> Any:
    if isinstance(leaf, Tensor):
        return torch.zeros_like(leaf, device=device)
    if hasattr(leaf, "__dict__") and any(isinstance(value, Tensor) for value in vars(leaf).values()):
        leaf = copy.copy(leaf)  # a distribution, as autoencoders return
        vars(leaf).update({name: _move(value, device) for name, value in vars(leaf).items()})
    return leaf
