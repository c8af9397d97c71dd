"""Exponential moving average of the trained weights, in float32 on the CPU, and a swap into the policy.

The n-th average (from 0), at every `every`-th optimizer step, has the decay min(decay, (1 + n)/(10 + n)). In
Flow-GRPO n counts steps instead, so that with an average each 8 steps a third of the start is left after 16.
What is read (`current`) has the steps since the last average too; the average goes on as if nobody looked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlvis.models.policy import Policy

Named = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


class Ema:
    """The average of named weights.

    >>> average = Ema({"w": torch.ones(1)}, decay=0.9)
    >>> average.update({"w": torch.zeros(1)})
    >>> round(float(average.weights["w"]), 6)  # decay (1 + 0)/(10 + 0) at the first step
    0.1
    """

    def __init__(self, start: Named, *, decay: float, every: int = 1) -> None:
        """Begin as a copy of `start` (name -> float32 masters, as a mapping or as pairs).

        Raises ValueError when decay is outside 0 .. 1 or every is below 1.
        """
        if not 0 <= decay < 1 or every < 1:
            raise ValueError(
                f"model.ema needs 0 <= decay < 1 and every >= 1, got decay={decay} every={every}"
            )
        self.decay = decay
        self.every = every
        self.steps = 0  # optimizer steps so far
        self.weights = {
            name: value.detach().to("cpu", torch.float32, copy=True) for name, value in _pairs(start)
        }

    def update(self, masters: Named) -> None:
        """Count one optimizer step, and average when its turn has come; `masters` is only read then.

        Raises ValueError when the names are not those of the start.
        """
        done = self.steps // self.every
        self.steps += 1
        if self.steps % self.every:
            return
        names = set()
        for name, value in _pairs(masters):
            self._named(name).lerp_(value.detach().to("cpu", torch.float32), self._new(done))
            names.add(name)
        if names != set(self.weights):
            raise ValueError(f"the average got {len(names)} of {len(self.weights)} weights")

    def current(self, masters: Named) -> Iterator[tuple[str, Tensor]]:
        """(name, average) as if its turn had come now, where steps were counted since the last one.

        Nothing is changed, so that a run that is looked at goes on as one that is not. Do not write to the
        tensors.

        Raises ValueError for a name that is not of the start.
        """
        return ((name, self._now(name, value)) for name, value in _pairs(masters))

    def _now(self, name: str, master: Tensor) -> Tensor:
        average = self._named(name)
        if self.steps % self.every == 0:
            return average
        return average.lerp(master.detach().to("cpu", torch.float32), self._new(self.steps // self.every))

    def _new(self, done: int) -> float:
        """Weight of the masters in the average that follows `done` others."""
        return 1 - min(self.decay, (1 + done) / (10 + done))

    def _named(self, name: str) -> Tensor:
        if name not in self.weights:
            raise ValueError(f"the average has no weight named {name}")
        return self.weights[name]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: steps (int) and weights (name -> float32 CPU tensor). Shares the
        tensors.
        """
        return {"steps": self.steps, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError when it is of other weights."""
        weights = state["weights"]
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in self.weights.items()}:
            raise ValueError(
                f"the saved average has {len(weights)} weights of other names or shapes than the "
                f"{len(self.weights)} trained here; resume with the same model.lora settings"
            )
        self.steps = int(state["steps"])
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextmanager
    def swapped(
        self,
        policy: Policy,
        *,
        read: Callable[[], Iterable[tuple[str, Tensor]]] | None = None,
        write: Callable[[Callable[[str], Tensor]], None] | None = None,
    ) -> Iterator[None]:
        """Inside it the policy's module holds the average (`current`); afterwards it holds its weights again,
        bit for bit.

        read, write: for weights that are not whole in the module (ZeRO-3), the engine's `masters` and
        `set_masters`; both or neither. Without them the module's parameters are exchanged in place and the
        optimizer's masters are not touched.
        """
        if (read is None) != (write is None):
            raise ValueError("give both read and write, or neither")
        parameters = dict(policy.trainable())

        def set_parameters(value_of: Callable[[str], Tensor]) -> None:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(value_of(name))

        source = parameters.items() if read is None else read()
        before = {name: value.detach().clone() for name, value in source}
        put = set_parameters if write is None else write
        put(lambda name: self._now(name, before[name]))
        try:
            yield
        finally:
            put(before.__getitem__)


def _pairs(weights: Named) -> Iterable[tuple[str, Tensor]]:
    return weights.items() if isinstance(weights, Mapping) else weights
