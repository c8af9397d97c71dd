"""What a run folder holds for an autopsy, and in which state the run is.

Every file may be missing or cut off. A run that was killed leaves no exit.json; runs that were written before
there was one count as finished when their last step is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlvis.observe import health, lines
from rlvis.observe.health import Symptom
from rlvis.report import folder
from rlvis.report.folder import RunFolder
from rlvis.runs import lock

RUNNING, FINISHED, CRASHED, KILLED, INTERRUPTED = "running", "finished", "crashed", "killed", "interrupted"
LOG_TAIL = 200_000  # bytes


@dataclass(frozen=True)
class Evidence:
    """A run folder as an autopsy sees it.

    details: lines of details.jsonl by step. broken: broken.json of each dumped step. exits: exit*.json, that
    of the first rank first. doctor: findings that are not ok. log: the end of RUN/*.log.
    """

    run: RunFolder
    state: str
    symptoms: list[Symptom]
    details: list[dict[str, Any]]
    broken: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    doctor: list[dict[str, Any]]
    log: str
    checkpoints: list[Path] = field(default_factory=list)

    @property
    def error(self) -> str:
        """Type and message of what ended the run; empty where it ended well or without a word."""
        return next((f"{e['error']}: {e.get('message', '')}" for e in self.exits if e.get("error")), "")

    @property
    def planned(self) -> int | None:
        """Training steps that were asked for."""
        told = self.run.told("train.steps")
        return told if isinstance(told, int) else None

    @cached_property
    def first_bad(self) -> int | None:
        """The first step that shows anything, from 1."""
        steps = [s.step for s in self.symptoms] + [int(b["step"]) for b in self.broken if "step" in b]
        return min(steps, default=None)

    def of(self, *names: str) -> list[Symptom]:
        """The symptoms of these names."""
        return [s for s in self.symptoms if s.name in names]

    def told(self, path: str, default: Any = None) -> Any:
        """A value of the configuration; `default` where it is not there or null."""
        value = self.run.told(path)
        return default if value is None else value

    def last(self, key: str) -> float | None:
        """The last finite value of a metric."""
        series = self.run.series(key).finite
        return float(series.value[-1]) if len(series) else None


def gather(run_dir: Path) -> Evidence | None:
    """Everything there is to look at; None where the folder holds nothing of a run."""
    run = folder.read(run_dir)
    broken = [
        b for path in sorted(run_dir.glob("dump/step_*/broken.json")) if (b := folder.json_object(path))
    ]
    exits = [e for path in sorted(run_dir.glob("exit*.json")) if (e := folder.json_object(path))]
    if not (run.config or run.rows or broken or exits):
        return None
    # A step that was written twice, before and after a resumption, counts as written last.
    by_step = {row["step"]: row for row in lines.steps(run_dir / "details.jsonl")}
    details = [by_step[step] for step in sorted(by_step)]
    findings = (folder.json_object(run_dir / "doctor.json") or {}).get("findings")
    odd = [f for f in findings or [] if isinstance(f, Mapping) and f.get("level") in ("warning", "failure")]
    return Evidence(
        run=run,
        state=_state(run, exits, broken),
        symptoms=health.symptoms(run.rows, run.config),
        details=details,
        broken=broken,
        exits=exits,
        doctor=[dict(f) for f in odd],
        log=_log(run_dir),
        checkpoints=_checkpoints(run_dir),
    )


def _state(run: RunFolder, exits: list[dict[str, Any]], broken: list[dict[str, Any]]) -> str:
    if lock.is_held(run.path):
        return RUNNING
    if any(e.get("error") and e.get("code") != 130 for e in exits):
        return CRASHED
    codes = [e.get("code") for e in exits]
    if 130 in codes:
        return INTERRUPTED
    if codes:
        return FINISHED if codes[0] == 0 else CRASHED
    if broken and run.steps < int(broken[-1].get("step", 0)):
        return CRASHED
    done = run.rows and run.steps == run.told("train.steps")
    return FINISHED if done and any((run.path / name).exists() for name in ("model", "lora")) else KILLED


def _checkpoints(run_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    from rlvis.checkpoints import files

    return files.whole(run_dir)


def _log(run_dir: Path) -> str:
    """The end of every log in the folder (a user's redirection, a scheduler's)."""
    told = []
    for path in sorted(run_dir.glob("*.log")):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL))
                told.append(file.read().decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(told)
