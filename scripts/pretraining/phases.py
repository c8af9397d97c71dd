"""One optimization loop for all scripts: it resumes, logs the loss, saves in time and ends in time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretraining.state import State

log = logging.getLogger("pretraining")

SAVE_SECONDS = 60  # between two savings of the state


@dataclass(frozen=True, kw_only=True)
class Phase:
    """An optimization, whose steps count from 0.

    name: of its entries in the state. models: what is saved, by name; the first one is trained. loss, rate:
    of a step. after: called with the number of steps taken. minutes: of this process, after which it ends
    early. once: a run that goes on leaves it alone when it has ended. log_steps: between two log lines.
    """

    name: str
    models: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    steps: int
    loss: Callable[[int], Tensor]
    rate: Callable[[int], float]
    after: Callable[[int], None] = lambda step: None
    minutes: float | None = None
    once: bool = False
    log_steps: int = 250

    def save(self, state: State, step: int, *, done: bool = False) -> None:
        """Into the state: the models, the optimizer (unless that is all), the steps taken."""
        weights = {name: model.state_dict() for name, model in self.models.items()}
        optimizer = None if done else self.optimizer.state_dict()
        progress = {"optimizer": optimizer, "step": step, "done": done}
        state.save(**weights, **{f"{self.name}_{key}": value for key, value in progress.items()})


def train(phase: Phase, state: State) -> None:
    """Take the steps that are left, each with the norm of the gradient clipped at 1."""
    name, model, optimizer = phase.name, next(iter(phase.models.values())), phase.optimizer
    first = step = state.step(name)
    if state.values.get(f"{name}_done"):
        return
    if state.values.get(f"{name}_optimizer"):
        optimizer.load_state_dict(state.values[f"{name}_optimizer"])
    losses: list[float] = []
    began = saved = time.monotonic()
    until = math.inf if phase.minutes is None else began + 60 * phase.minutes
    model.train()
    while step < phase.steps and time.monotonic() <= until:
        loss = phase.loss(step)
        for group in optimizer.param_groups:
            group["lr"] = phase.rate(step)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        phase.after(step)
        losses.append(loss.item())
        if step % phase.log_steps == 0 or step == phase.steps:
            seconds, mean = (time.monotonic() - began) / (step - first), sum(losses) / len(losses)
            log.info("%s step %d/%d loss %.4f, %.3f s/step", name, step, phase.steps, mean, seconds)
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS:
            phase.save(state, step)
            saved = time.monotonic()
    phase.save(state, step, done=phase.once)
    model.eval()


def cosine(step: float, steps: float, floor: float = 0.0) -> float:
    """Share of the learning rate: half a cosine from 1 down to `floor` as step goes from 0 to steps."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))
