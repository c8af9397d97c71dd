"""What a run folder holds for an autopsy, and in which state the run is.

Every file may be missing or cut off. A run that was killed leaves no exit.json; runs that were written before
there was one count as finished when their last step is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from rlvis.findings import Finding, Severity
from rlvis.observe import health, lines
from rlvis.report import folder
from rlvis.report.autopsy import changes
from rlvis.report.folder import RunFolder
from rlvis.runs import lock
from rlvis.runtime.interrupt import EXIT_CODE as INTERRUPTED

LOG_TAIL = 200_000  # bytes


class State(StrEnum):
    """How a run ended, or that it has not; a killed one left no word."""

    running = "running"
    finished = "finished"
    crashed = "crashed"
    killed = "killed"
    interrupted = "interrupted"


@dataclass(frozen=True)
class Evidence:
    """A run folder as an autopsy sees it.

    details: lines of details.jsonl by step. dumps: broken.json of each dumped step. exits: exit*.json, that
    of the first rank first. doctor: findings that are not ok. log: the end of RUN/*.log. problems: what could
    not be looked at.
    """

    run: RunFolder
    state: State
    symptoms: list[Finding]
    details: list[dict[str, Any]]
    dumps: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    doctor: list[Finding]
    log: str
    checkpoints: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """Type and message of what ended the run; empty where it ended well or without a word."""
        return next((f"{e['error']}: {e.get('message', '')}" for e in self.exits if e.get("error")), "")

    @property
    def planned(self) -> int | None:
        """Training steps that were asked for."""
        steps = self.setting("train.steps")
        return steps if isinstance(steps, int) else None

    @cached_property
    def first_bad(self) -> int | None:
        """The first step that shows anything, from 1."""
        steps = [symptom.step for symptom in self.symptoms if symptom.step is not None]
        return min(steps + [int(dump["step"]) for dump in self.dumps if "step" in dump], default=None)

    def named(self, *names: str) -> list[Finding]:
        """The symptoms of these names."""
        return [symptom for symptom in self.symptoms if symptom.name in names]

    def setting(self, path: str, default: Any = None) -> Any:
        """A value of the configuration; `default` where it is not there or null."""
        return self.run.setting(path, default)

    def last(self, key: str) -> float | None:
        """The last finite value of a metric."""
        series = self.run.series(key).finite
        return float(series.value[-1]) if len(series) else None


def gather(run_dir: Path) -> Evidence | None:
    """Everything there is to look at; None where the folder holds nothing of a run."""
    run, problems = folder.read(run_dir), []
    dumps, exits = (_objects(run_dir, files) for files in ("dump/step_*/broken.json", "exit*.json"))
    if not (run.config or run.rows or dumps or exits):
        return None
    try:
        symptoms = health.symptoms(run.rows, run.config)
    except Exception as error:  # files with anything in them must not cost the rest
        symptoms = []
        problems.append(f"The metrics could not be judged: {type(error).__name__}: {error}.")
    # A step that was written twice, before and after a resumption, counts as written last.
    by_step = {row["step"]: row for row in lines.steps(run_dir / "details.jsonl") if changes.fits(row)}
    return Evidence(
        run=run,
        state=_state(run, exits, dumps),
        symptoms=symptoms,
        details=[by_step[step] for step in sorted(by_step)],
        dumps=dumps,
        exits=exits,
        doctor=[f for f in folder.doctor_findings(run_dir) or () if f.severity is not Severity.ok],
        log=_log(run_dir),
        checkpoints=_checkpoints(run_dir),
        problems=problems,
    )


def _objects(run_dir: Path, files: str) -> list[dict[str, Any]]:
    """The JSON objects of the files that match, those that can be read, by name."""
    return [value for path in sorted(run_dir.glob(files)) if (value := folder.json_object(path))]


def _state(run: RunFolder, exits: list[dict[str, Any]], dumps: list[dict[str, Any]]) -> State:
    if lock.is_held(run.path):
        return State.running
    if any(e.get("error") and e.get("code") != INTERRUPTED for e in exits):
        return State.crashed
    codes = [e.get("code") for e in exits]
    if INTERRUPTED in codes:
        return State.interrupted
    if codes:
        return State.finished if codes[0] == 0 else State.crashed
    if dumps and run.steps < int(dumps[-1].get("step", 0)):
        return State.crashed
    done = run.rows and run.steps == run.setting("train.steps")
    exported = any((run.path / name).exists() for name in ("model", "lora"))
    return State.finished if done and exported else State.killed


def _checkpoints(run_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    from rlvis.checkpoints import files

    return files.whole(run_dir)


def _log(run_dir: Path) -> str:
    """The end of every log in the folder (a user's redirection, a scheduler's)."""
    tails = []
    for path in sorted(run_dir.glob("*.log")):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL))
                tails.append(file.read().decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(tails)
