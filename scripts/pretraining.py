"""What the pretraining scripts share: seeded generators, the clock of a phase, a resumable state, averages.

Every step of a script draws from (seed, phase, step) alone, so the same number of steps gives the same
weights, interrupted or not.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger("pretraining")

SAVE_SECONDS = 60  # between two savings of the state
LOG_STEPS = 250


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


class Clock:
    """Ends a phase at its step count or after so many minutes of this process, logs it and saves it."""

    def __init__(self, name: str, start: int, steps: int, minutes: float | None) -> None:
        self.name, self.start, self.steps, self.minutes = name, start, steps, minutes
        self.began = self.saved = time.monotonic()
        self.losses: list[float] = []

    def go_on(self, step: int) -> bool:
        over = self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes
        return step < self.steps and not over

    def tick(self, step: int, loss: float, save: Callable[[], None]) -> None:
        self.losses.append(loss)
        if step % LOG_STEPS == 0:
            seconds = (time.monotonic() - self.began) / (step - self.start)
            mean = sum(self.losses) / len(self.losses)
            log.info("%s step %d/%d loss %.4f, %.3f s/step", self.name, step, self.steps, mean, seconds)
            self.losses.clear()
        if time.monotonic() - self.saved > SAVE_SECONDS:
            save()
            self.saved = time.monotonic()


class State:
    """Numbers and tensors that a run needs to go on, by name, kept in one file.

    settings: what must be the same when a run goes on; values: what a fresh one starts with. Raises
    SystemExit when `resume` finds other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool, **values: Any) -> None:
        self.path = path
        self.values: dict[str, Any] = {"settings": settings, "seconds": 0.0, **values}
        if resume:
            self.values = torch.load(path, weights_only=True)
            if self.values["settings"] != settings:
                raise SystemExit(
                    f"{path} was made with {self.values['settings']}, not {settings}: "
                    "pass the same options, or leave --resume out to start over"
                )
        self.spent, self.began = self.values["seconds"], time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def save(self, **values: Any) -> None:
        """Write the values so far and these; a run killed meanwhile leaves the file as it was."""
        self.values.update(values, seconds=self.spent + time.monotonic() - self.began)
        aside = self.path.with_suffix(".new")
        torch.save(self.values, aside)
        os.replace(aside, self.path)


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the parameters, faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), live.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def megabytes(folder: Path) -> float:
    """Size of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def make_readable(folder: Path) -> None:
    """Weights are written readable by their owner only, which an installed package must not be."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
