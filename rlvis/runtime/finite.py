"""Where numbers stop being finite: the first module of a forward whose output is not, found by hooks.

Slow (it looks at every output and waits for the device), so it is used once, when a step is broken anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.runtime import dist

INPUT = "input"


@dataclass
class First:
    """What a watched forward showed: module is the dotted name of the first one whose output was not finite,
    `input` where that holds for what went in, None where all was finite. weights: whether parameters of that
    module are not finite themselves.
    """

    module: str | None = None
    weights: bool = False


@contextmanager
def watch(module: nn.Module) -> Iterator[First]:
    """Watch the forwards of `module` inside the block.

    Children end before their parents, so the first to end with such an output is the innermost one.
    """
    first = First()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        if first.module is None and not _finite((args, kwargs)):
            first.module = INPUT

    def after(name: str) -> Any:
        def hook(part: nn.Module, args: Any, out: Any) -> None:
            if first.module is None and not _finite(out):
                first.module = name
                first.weights = not _finite([p.detach() for p in part.parameters(recurse=False)])

        return hook

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True)]
    for name, part in module.named_modules():
        hooks.append(part.register_forward_hook(after(_name(name, part))))
    try:
        yield first
    finally:
        for handle in hooks:
            handle.remove()


def agreed(first: First, module: nn.Module) -> First:
    """What some rank found, on all: the last in the module's order where they differ. A collective."""
    names = [INPUT, *(_name(name, part) for name, part in module.named_modules())]
    found = -1 if first.module is None else 2 * names.index(first.module) + first.weights
    told = int(dist.all_reduce(torch.tensor([float(found)]), "max")[0])
    return First() if told < 0 else First(names[told // 2], bool(told % 2))


def _name(name: str, part: nn.Module) -> str:
    """A submodule's dotted name; the class of the module itself."""
    return name or type(part).__name__


def _finite(value: Any) -> bool:
    """Whether every floating number in tensors, lists, tuples, dicts and diffusers' outputs is finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(_finite(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(part) for part in value)
    return True
