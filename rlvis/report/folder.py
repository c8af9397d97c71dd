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
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlvis.observe.symptom import Series

STEP_NAME = re.compile(r"step_(\d+)\.png")


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
    _series: dict[str, Series] = field(default_factory=dict, repr=False)  # of the keys that were asked for

    @cached_property
    def keys(self) -> list[str]:
        """All metric keys, in the order of their first appearance."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key != "step"))

    def series(self, key: str) -> Series:
        """The metric over the steps that have it; empty when none has."""
        if key not in self._series:
            told = ((row["step"], _number(row[key])) for row in self.rows if key in row)
            found = [(step, number) for step, number in told if number is not None]
            steps, values = zip(*found, strict=True) if found else ((), ())
            self._series[key] = Series(
                np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
            )
        return self._series[key]

    @property
    def steps(self) -> int:
        """The last training step that was written."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def told(self, path: str) -> Any:
        """A value of the configuration by its dotted path; None where it is not there."""
        node: Any = self.config
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "config.yaml").is_file() or (path / "metrics.jsonl").is_file()


def runs_below(path: Path) -> list[Path]:
    """The run folders directly in a folder, by name: the runs of one name, or of a sweep."""
    return sorted(child for child in path.iterdir() if child.is_dir() and is_run(child))


def read(run_dir: Path) -> RunFolder:
    """Read a run folder. Raises ValueError only if there is no such folder."""
    path = Path(run_dir)
    if not path.is_dir():
        raise ValueError(f"report: {path} is not a folder; give the run folder that holds metrics.jsonl")
    missing: list[str] = []
    config_text = _text(path / "config.yaml", missing)
    config = _parsed(config_text, yaml.safe_load, "config.yaml", missing)
    manifest = _parsed(_text(path / "manifest.json", missing), json.loads, "manifest.json", missing)
    samples = sheets(path / "samples")
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


def sheets(folder: Path) -> list[tuple[int, Path]]:
    """(step, sheet) of the sheets step_NNNNNN.png in a folder, by step."""
    matched = ((STEP_NAME.fullmatch(file.name), file) for file in folder.glob("*.png"))
    return sorted((int(match[1]), file) for match, file in matched if match)


def json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is none, or nothing that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(path: Path, missing: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        missing.append(f"{path.name} is missing.")
    except OSError as error:
        missing.append(f"{path.name} cannot be read: {error.strerror}.")
    return ""


def _parsed(text: str, parse: Any, name: str, missing: list[str]) -> dict[str, Any]:
    """The mapping in `text`; empty, with a sentence in `missing`, where it is none."""
    if not text:
        return {}
    try:
        value = parse(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        missing.append(f"{name} cannot be read: {(str(error).splitlines() or ['?'])[0]}.")
        return {}
    if not isinstance(value, dict):
        missing.append(f"{name} holds a {type(value).__name__}, not a mapping.")
        return {}
    return value


def _rows(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl by step; a step that was written twice counts as written last."""
    lines = _text(path, missing).splitlines()
    rows: dict[int, dict[str, Any]] = {}
    lost: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = {**row, "step": int(row["step"])}
        except (ValueError, KeyError, TypeError, OverflowError):
            if number == len(lines):
                missing.append("The last line of metrics.jsonl is cut off and was left out.")
            else:
                lost.append(number)
    if lost:
        named = ", ".join(map(str, lost[:5])) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        what = f"Line {named} of metrics.jsonl" if len(lost) == 1 else f"Lines {named} of metrics.jsonl"
        missing.append(f"{what} cannot be read and {'was' if len(lost) == 1 else 'were'} left out.")
    if not rows:
        missing.append("No training step was written to metrics.jsonl: there are no curves to show.")
    elif len(rows) == 1:
        missing.append("Only one training step was written: curves are single points, and there is no trend.")
    return [rows[step] for step in sorted(rows)]


def _number(value: Any) -> float | None:
    """A number, or one of the strings that stand for NaN and the infinities; None for anything else."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
