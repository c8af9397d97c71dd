"""A run folder as data: configuration, manifest, metrics and sample sheets, with what is missing said instead
of raised.

A report is wanted most when a run broke: a cut-off last line, no samples or no manifest are listed in
`missing`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

STEP_NAME = re.compile(r"step_(\d+)\.png")


@dataclass(frozen=True)
class Series:
    """One metric over training steps: step [n] int64 rising, value [n] float64 (NaN and inf are possible)."""

    step: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.step)

    @property
    def finite(self) -> Series:
        """Without the entries that are not finite."""
        known = np.isfinite(self.value)
        return Series(self.step[known], self.value[known])


@dataclass(frozen=True)
class RunFolder:
    """What was found in a run folder. `missing`: sentences about what was not."""

    path: Path
    name: str
    config_text: str
    config: dict[str, Any]
    manifest: dict[str, Any]
    rows: Sequence[dict[str, Any]]  # of metrics.jsonl, one a step, by step
    samples: Sequence[tuple[int, Path]]  # (step, sheet), by step
    missing: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """All metric keys, in the order of their first appearance."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key != "step"))

    def series(self, key: str) -> Series:
        """The metric over the steps that have it; empty when none has."""
        found = [(row["step"], number) for row in self.rows if (number := _number(row.get(key))) is not None]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return Series(np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64))


def read(run_dir: Path) -> RunFolder:
    """Read a run folder. Raises ValueError only if there is no such folder."""
    path = Path(run_dir)
    if not path.is_dir():
        raise ValueError(f"report: {path} is not a folder; give the run folder that holds metrics.jsonl")
    missing: list[str] = []
    config_text = _text(path / "config.yaml", missing)
    config = _parsed(config_text, yaml.safe_load, "config.yaml", missing)
    manifest = _parsed(_text(path / "manifest.json", missing), json.loads, "manifest.json", missing)
    samples = sorted(
        (int(match[1]), file)
        for file in path.glob("samples/*.png")
        if (match := STEP_NAME.fullmatch(file.name))
    )
    if not samples:
        missing.append("There are no sample sheets (samples/step_*.png).")
    return RunFolder(
        path=path,
        name=str(config.get("name") or path.resolve().name),
        config_text=config_text,
        config=config,
        manifest=manifest,
        rows=_rows(path / "metrics.jsonl", missing),
        samples=samples,
        missing=missing,
    )


def _text(path: Path, missing: list[str]) -> str:
    if not path.exists():
        missing.append(f"{path.name} is missing.")
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _parsed(text: str, parse: Any, name: str, missing: list[str]) -> dict[str, Any]:
    """The mapping in `text`; empty, with a sentence in `missing`, where it is none."""
    if not text:
        return {}
    try:
        value = parse(text)
    except (ValueError, yaml.YAMLError) as error:
        missing.append(f"{name} cannot be read: {str(error).splitlines()[0]}.")
        return {}
    if not isinstance(value, dict):
        missing.append(f"{name} holds a {type(value).__name__}, not a mapping.")
        return {}
    return value


def _rows(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl by step; a step that was written twice counts as written last."""
    lines = _text(path, missing).splitlines()
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                missing.append("The last line of metrics.jsonl is cut off and was left out.")
            else:
                missing.append(f"Line {number} of metrics.jsonl cannot be read and was left out.")
    if not rows:
        missing.append("No training step was written to metrics.jsonl: there are no curves to show.")
    elif len(rows) == 1:
        missing.append("Only one training step was written: curves are single points, and there is no trend.")
    return [rows[step] for step in sorted(rows)]


def _number(value: Any) -> float | None:
    """A number, or one of the strings that stand for NaN and the infinities; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
