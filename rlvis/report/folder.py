"""A run folder as data: configuration, manifest, metrics and sample sheets, with what is missing said instead
of raised.

A report is wanted most when a run broke: a cut-off last line, no samples or no manifest are listed in
`missing`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlvis.findings import Finding, from_json
from rlvis.observe import lines
from rlvis.observe.history import RunHistory, number

READ = ("reward/mean", "update/loss", "update/grad_norm", "time/step")  # one of them is in every step
STEP_NAME = re.compile(r"step_(\d+)\.png")
DOCTOR = "doctor.json"


@dataclass(frozen=True)
class RunFolder(RunHistory):
    """What a run folder holds; `missing`: sentences about what it lacks. rows: one a step, by step."""

    path: Path
    name: str
    config_text: str
    manifest: dict[str, Any]
    samples: Sequence[tuple[int, Path]]  # (step, sheet), by step
    missing: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The last training step that was written."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def blind(self) -> str:
        """Why its metrics say nothing about the run; empty where they can be judged."""
        if not any(row["step"] for row in self.rows):
            gone = [sentence for sentence in self.missing if "metrics.jsonl" in sentence]
            return gone[0] if gone else "metrics.jsonl has no training step."
        if not any(len(self.series(key)) for key in READ):
            return f"No line of metrics.jsonl has a number under {', '.join(READ[:-1])} or {READ[-1]}."
        return ""


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((path / name).is_file() for name in ("config.yaml", "metrics.jsonl", "exit.json"))


def runs_below(path: Path) -> list[Path]:
    """The run folders directly in a folder, by name: the runs of one name, or of a sweep."""
    return sorted(child for child in path.iterdir() if child.is_dir() and is_run(child))


def stage_of(path: Path) -> str:
    """The one stage that a folder is of, as in rollout; empty for a training or where it is not known."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return ""
    stage = config.get("stage") if isinstance(config, Mapping) else None
    return stage if isinstance(stage, str) and stage != "all" else ""


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


def section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under a key; empty where there is none."""
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def doctor_findings(run_dir: Path) -> list[Finding] | None:
    """What doctor.json says, of this version or an earlier one; None where there is nothing to read."""
    findings = (json_object(run_dir / DOCTOR) or {}).get("findings")
    if not isinstance(findings, list):
        return None
    return [from_json(values) for values in findings if isinstance(values, Mapping)]


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
    written = list(lines.parsed(_text(path, missing)))
    lost = [line for line, row in enumerate(written, 1) if row is None]
    if lost and lost[-1] == len(written):
        missing.append("The last line of metrics.jsonl is cut off and was left out.")
        lost.pop()
    if lost:
        named = ", ".join(map(str, lost[:5])) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        what = f"Line {named} of metrics.jsonl" if len(lost) == 1 else f"Lines {named} of metrics.jsonl"
        missing.append(f"{what} cannot be read and {'was' if len(lost) == 1 else 'were'} left out.")
    rows = {row["step"]: row for row in written if row is not None}
    missing += [*_gaps(sorted(rows)), *_no_numbers(rows.values())]
    if not rows:
        missing.append("No training step was written to metrics.jsonl: there are no curves to show.")
    elif len(rows) == 1:
        missing.append("Only one training step was written: curves are single points, and there is no trend.")
    return [rows[step] for step in sorted(rows)]


def _gaps(steps: Sequence[int]) -> list[str]:
    """A sentence about training steps that are not there although a later one is."""
    inner = zip([0, *steps], steps, strict=False)
    gaps = [(before + 1, step - 1) for before, step in inner if step > before + 1]
    if not gaps:
        return []
    named = ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in gaps[:3])
    more = f" and {len(gaps) - 3} more stretches" if len(gaps) > 3 else ""
    return [
        f"metrics.jsonl has no line of steps {named}{more}: they were removed, or lost before a resumption."
    ]


def _no_numbers(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence about entries that are no numbers."""
    odd = [(row["step"], key, value) for row in rows for key, value in row.items() if number(value) is None]
    if not odd:
        return []
    step, key, value = odd[0]
    count = "1 entry" if len(odd) == 1 else f"{len(odd)} entries"
    return [
        f"Left out of metrics.jsonl: {count} without a number, first {key} at step {step}: "
        f"{str(value)[:40]!r}."
    ]
