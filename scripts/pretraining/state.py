"""Seeded generators, and the state that a run goes on from.

Every step of a script draws from (seed, phase, step) alone, so the same number of steps gives the same
weights, interrupted or not.
"""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


class State:
    """Numbers and tensors that a run needs to go on, by name, kept in one file.

    settings: what must be the same when a run goes on. Raises SystemExit when `resume` finds other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.values: dict[str, Any] = {"settings": settings, "seconds": 0.0}
        if resume:
            self.values = torch.load(path, weights_only=True)
            if self.values["settings"] != settings:
                raise SystemExit(
                    f"{path} was made with {self.values['settings']}, not {settings}: "
                    "pass the same options, or leave --resume out to start over"
                )
        self.spent, self.began = self.values["seconds"], time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def step(self, phase: str) -> int:
        """Steps that a phase has taken."""
        return int(self.values.get(f"{phase}_step", 0))

    @property
    def minutes(self) -> float:
        """That all runs took until the last save."""
        return float(self.values["seconds"]) / 60

    def restore(self, **models: nn.Module) -> None:
        """Give the models the weights that are kept under their names, if any are."""
        for name, model in models.items():
            if name in self.values:
                model.load_state_dict(self.values[name])

    def save(self, **values: Any) -> None:
        """Write the values so far and these; a run killed meanwhile leaves the file as it was."""
        # A copy: weights may change after their phase (the latents are whitened), and a resumed run must
        # meet them as they were.
        self.values.update(copy.deepcopy(values), seconds=self.spent + time.monotonic() - self.began)
        aside = self.path.with_suffix(".new")
        torch.save(self.values, aside)
        os.replace(aside, self.path)
