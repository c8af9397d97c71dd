"""RUN/groups: the best and worst samples, the most and least trusted groups and the maps of chosen steps.

Each step has a folder with an index.json beside its pictures. What is missing or cannot be read is left out;
a file name that would lead out of the folder is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvis.report.folder import json_object

INDEX = "index.json"


@dataclass(frozen=True)
class Sample:
    """One sample: its picture or clip, its map beside it where there is one, and its reward."""

    file: Path
    prompt: int
    sample: int
    text: str
    reward: float | None
    terms: dict[str, float] = field(default_factory=dict)
    map: Path | None = None


@dataclass(frozen=True)
class Group:
    """A prompt's group under one objective, with what its weight was made of (None: not known)."""

    prompt: int
    text: str
    objective: str
    weight: float | None
    mean: float | None
    std: float | None
    prior_mean: float | None
    prior_var: float | None
    samples: list[Sample]


@dataclass(frozen=True)
class Extremes:
    """What was kept of one step."""

    step: int
    best: list[Sample]
    worst: list[Sample]
    most_trusted: list[Group]
    least_trusted: list[Group]
    maps: list[Sample]


def read(run_dir: Path) -> tuple[list[Extremes], list[str]]:
    """The steps that RUN/groups holds, by step, and sentences about what cannot be read."""
    found: dict[int, Extremes] = {}
    problems: list[str] = []
    for index in sorted(run_dir.glob(f"groups/step_*/{INDEX}")):
        told = json_object(index)
        step = number(told.get("step")) if told else None
        if told is None or step is None:
            problems.append(f"groups/{index.parent.name}/{INDEX} cannot be read.")
            continue
        folder = index.parent
        found[int(step)] = Extremes(
            int(step),
            *([s for row in _rows(told, key) if (s := _sample(row, folder))] for key in ("best", "worst")),
            *([_group(row, folder) for row in _rows(told, key)] for key in ("most_trusted", "least_trusted")),
            [s for row in _rows(told, "maps") if (s := _sample(row, folder)) and s.map],
        )
    return [found[step] for step in sorted(found)], problems


def number(value: Any) -> float | None:
    """A finite number of a JSON file, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None  # also False for NaN


def _rows(told: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = told.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _sample(row: Mapping[str, Any], folder: Path) -> Sample | None:
    file = _inside(row.get("file"), folder)
    if file is None:
        return None
    terms = row.get("terms") if isinstance(row.get("terms"), Mapping) else {}
    known = {str(name): value for name, told in terms.items() if (value := number(told)) is not None}
    return Sample(
        file,
        int(number(row.get("prompt")) or 0),
        int(number(row.get("sample")) or 0),
        str(row.get("text", "")),
        number(row.get("reward")),
        known,
        _inside(row.get("map"), folder),
    )


def _group(row: Mapping[str, Any], folder: Path) -> Group:
    numbers = [number(row.get(key)) for key in ("weight", "mean", "std", "prior_mean", "prior_var")]
    samples = [s for told in _rows(row, "samples") if (s := _sample(told, folder))]
    prompt = int(number(row.get("prompt")) or 0)
    return Group(prompt, str(row.get("text", "")), str(row.get("objective", "")), *numbers, samples)


def _inside(name: Any, folder: Path) -> Path | None:
    """The file of that name in the folder; None for anything that is not a plain name."""
    if not isinstance(name, str) or not name or Path(name).name != name or name in (".", ".."):
        return None
    return folder / name
