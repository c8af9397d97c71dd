"""trust.jsonl by prompt and objective: what each one's groups weighed on average.

The file grows with the run, so it is read line by line and only sums are kept.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NUMBERS = ("weight", "mean", "std", "prior_mean", "prior_var", "posterior_mean")


@dataclass
class Trusted:
    """A prompt's groups under one objective; groups without a valid sample are left out.

    sums, known: of each of NUMBERS over its groups, and in how many of them it was known.
    """

    prompt: int
    text: str
    objective: str
    groups: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)

    def average(self, name: str) -> float | None:
        """Mean of one of NUMBERS over the groups that know it."""
        return self.sums[name] / self.known[name] if self.known.get(name) else None

    @property
    def weight(self) -> float:
        """Mean weight."""
        return self.sums["weight"] / self.groups

    @property
    def gap(self) -> float | None:
        """Mean reward of its groups minus the mean of the priors they were compared with."""
        mean, prior = self.average("mean"), self.average("prior_mean")
        return None if mean is None or prior is None else mean - prior


def read(path: Path) -> tuple[list[Trusted], int]:
    """What trust.jsonl says, most trusted first (then by prompt), and how many lines could not be read."""
    trusted: dict[tuple[int, str], Trusted] = {}
    lost = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                _add(trusted, json.loads(line))
            except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
                lost += 1
    return sorted(trusted.values(), key=lambda t: (-t.weight, t.prompt, t.objective)), lost


def _add(trusted: dict[tuple[int, str], Trusted], row: dict[str, Any]) -> None:
    if row["mean"] is None:
        return
    weight, mean = float(row["weight"]), float(row["mean"])
    if not (math.isfinite(weight) and math.isfinite(mean)):
        raise ValueError("a weight that is no number")
    key = int(row["prompt"]), str(row["objective"])
    entry = trusted.setdefault(key, Trusted(key[0], str(row["text"]), key[1]))
    entry.groups += 1
    for name in NUMBERS:
        value = row.get(name)
        if value is not None and math.isfinite(float(value)):
            entry.sums[name] = entry.sums.get(name, 0.0) + float(value)
            entry.known[name] = entry.known.get(name, 0) + 1
