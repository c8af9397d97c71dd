"""trust.jsonl by prompt and objective: what each one's groups weighed on average.

The file grows with the run, so it is read line by line and only sums are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Trusted:
    """A prompt's groups under one objective: sums over them; groups without a valid sample are left out."""

    prompt: int
    text: str
    objective: str
    groups: int = 0
    weights: float = 0.0
    means: float = 0.0
    priors: float = 0.0

    @property
    def weight(self) -> float:
        """Mean weight."""
        return self.weights / self.groups

    @property
    def mean(self) -> float:
        """Mean reward of its groups."""
        return self.means / self.groups

    @property
    def prior(self) -> float:
        """Mean of the priors that they were compared with."""
        return self.priors / self.groups


def read(path: Path) -> tuple[list[Trusted], int]:
    """What trust.jsonl says, most trusted first (then by prompt), and how many lines could not be read."""
    found: dict[tuple[int, str], Trusted] = {}
    lost = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                _add(found, json.loads(line))
            except (ValueError, KeyError, TypeError):
                lost += 1
    return sorted(found.values(), key=lambda t: (-t.weight, t.prompt, t.objective)), lost


def _add(found: dict[tuple[int, str], Trusted], row: dict[str, Any]) -> None:
    if row["mean"] is None:
        return
    numbers = float(row["weight"]), float(row["mean"]), float(row["prior_mean"])
    key = int(row["prompt"]), str(row["objective"])
    entry = found.setdefault(key, Trusted(key[0], str(row["text"]), key[1]))
    entry.groups += 1
    entry.weights += numbers[0]
    entry.means += numbers[1]
    entry.priors += numbers[2]
