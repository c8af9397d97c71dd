"""RUN/groups: the best and worst samples, the most and least trusted groups and the maps of chosen steps.

Each step has a folder with an index.json beside its pictures. What is missing or cannot be read is left out;
a file name that would lead out of the folder is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvis.report.folder import json_object, section

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
    kept: dict[int, Extremes] = {}
    problems: list[str] = []
    for index in sorted(run_dir.glob(f"groups/step_*/{INDEX}")):
        values = json_object(index) or {}
        step = number(values.get("step"))
        if step is None:
            problems.append(f"groups/{index.parent.name}/{INDEX} cannot be read.")
            continue
        kept[int(step)] = _extremes(int(step), values, index.parent)
    return [kept[step] for step in sorted(kept)], problems


def number(value: Any) -> float | None:
    """A finite number of a JSON file, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None  # also False for NaN


def _extremes(step: int, values: Mapping[str, Any], folder: Path) -> Extremes:
    return Extremes(
        step=step,
        best=_samples(values, "best", folder),
        worst=_samples(values, "worst", folder),
        most_trusted=[_group(row, folder) for row in _rows(values, "most_trusted")],
        least_trusted=[_group(row, folder) for row in _rows(values, "least_trusted")],
        maps=[sample for sample in _samples(values, "maps", folder) if sample.map],
    )


def _rows(values: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = values.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _samples(values: Mapping[str, Any], key: str, folder: Path) -> list[Sample]:
    """The samples listed under a key, without those whose file is not plainly in the folder."""
    return [sample for row in _rows(values, key) if (sample := _sample(row, folder))]


def _sample(row: Mapping[str, Any], folder: Path) -> Sample | None:
    file = _inside(row.get("file"), folder)
    if file is None:
        return None
    terms = {name: number(value) for name, value in section(row, "terms").items()}
    known = {str(name): value for name, value in terms.items() if value is not None}
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
    return Group(
        prompt=int(number(row.get("prompt")) or 0),
        text=str(row.get("text", "")),
        objective=str(row.get("objective", "")),
        weight=number(row.get("weight")),
        mean=number(row.get("mean")),
        std=number(row.get("std")),
        prior_mean=number(row.get("prior_mean")),
        prior_var=number(row.get("prior_var")),
        samples=_samples(row, "samples", folder),
    )


def _inside(name: Any, folder: Path) -> Path | None:
    """The file of that name in the folder; None for anything that is not a plain name."""
    if not isinstance(name, str) or not name or Path(name).name != name or name in (".", ".."):
        return None
    return folder / name
