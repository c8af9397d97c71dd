"""The autopsy of a run: state, first bad step, what moved first, symptoms, likely causes, what to type.

Reads what is in the folder (metrics, details, dumps, doctor.json, exit.json, logs) and runs nothing.
"""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlvis.observe.health import Symptom
from rlvis.report import autopsy_causes, autopsy_moves
from rlvis.report.autopsy_causes import Likely
from rlvis.report.autopsy_evidence import CRASHED, FINISHED, INTERRUPTED, KILLED, RUNNING, Evidence, gather
from rlvis.report.autopsy_moves import Move

WIDTH = 110


@dataclass(frozen=True)
class Autopsy:
    """What was found; empty lists where there is nothing to say."""

    run: str
    state: str
    steps: int
    planned: int | None
    error: str
    first_bad: int | None
    moved: list[Move]
    symptoms: list[Symptom]
    causes: list[Likely]
    commands: list[tuple[str, str]]  # what for, and the command

    @property
    def healthy(self) -> bool:
        """Whether there is nothing suspicious."""
        return not self.symptoms and not self.causes and self.state in (FINISHED, RUNNING, INTERRUPTED)


def examine(run_dir: Path) -> Autopsy | None:
    """Look into a run folder; None where it holds nothing of a run.

    Raises ValueError if there is no such folder.
    """
    found = gather(Path(run_dir))
    if found is None:
        return None
    bad = found.first_bad
    return Autopsy(
        run=str(run_dir),
        state=found.state,
        steps=found.run.steps,
        planned=found.planned,
        error=found.error,
        first_bad=bad,
        moved=[] if bad is None else autopsy_moves.first_of_each(found.details, bad),
        symptoms=found.symptoms,
        causes=autopsy_causes.likely(found),
        commands=_commands(found, Path(run_dir)),
    )


def as_json(found: Autopsy) -> dict[str, Any]:
    """The same as JSON values."""
    told = asdict(found)
    told["commands"] = [{"for": why, "command": command} for why, command in found.commands]
    for symptom in told["symptoms"]:
        symptom["value"] = symptom["value"] if abs(symptom["value"]) < float("inf") else str(symptom["value"])
    return told


def text(found: Autopsy) -> str:
    """The same for people, in the order in which one wants to know it."""
    of = "" if found.planned is None else f" of {found.planned}"
    said = [f"{found.run}: {STATES[found.state]}, {found.steps}{of} steps written"]
    if found.state == CRASHED and not found.error:
        said.append("  exit code 1 without an error of its own: its last checkpoint could not be written")
    if found.error:
        said += _wrapped(found.error.splitlines()[0], "  ")
    if found.healthy:
        return "\n".join([*said, "Nothing suspicious."])
    if found.first_bad is not None:
        said += ["", f"First bad step: {found.first_bad}"]
    if found.moved:
        said += ["", "Moved first, against the run's own past:"]
        said += _table(
            [
                [
                    f"step {m.step}",
                    m.family,
                    m.name,
                    f"{m.before:.3g} -> {m.after:.3g}",
                    f"{m.spreads:.0f} spreads",
                ]
                for m in found.moved
            ]
        )
    if found.symptoms:
        said += ["", "Symptoms, by time:"]
        for symptom in found.symptoms:
            said.append(f"  step {symptom.step:<5} {symptom.severity:<11} {symptom.name}")
            said += _wrapped(f"{symptom.what}. Wanted: {symptom.limit}.", " " * 13)
    if found.causes:
        said += ["", "Likely causes, the strongest first:"]
    for number, cause in enumerate(found.causes, 1):
        said.append(f"  {number}. {cause.name}")
        for line in cause.evidence:
            said += _wrapped(f"- {line}", " " * 5, "  ")
        said += _wrapped(f"why: {cause.why}", " " * 5, " " * 5)
        said += _wrapped(f"try: {cause.type}", " " * 5, " " * 5)
    if found.commands:
        said += ["", "What to type:"]
        for why, command in found.commands:
            said += [f"  {why}:", f"    {command}"]
    return "\n".join(said)


STATES = {
    RUNNING: "still running (its .lock is held)",
    FINISHED: "finished",
    CRASHED: "crashed",
    KILLED: "killed, it left no word",
    INTERRUPTED: "interrupted on request",
}


def _commands(found: Evidence, run_dir: Path) -> list[tuple[str, str]]:
    """Go on with the run, repeat its broken update, see it on a page."""
    told = []
    ended = found.state in (CRASHED, KILLED, INTERRUPTED)
    if ended and found.checkpoints:
        step = int(found.checkpoints[-1].name.split("_")[-1])
        told.append((f"go on after step {step}", f"rlvis train resume={shlex.quote(str(run_dir))}"))
    again = _words(found)
    if ended and not found.checkpoints and again is not None:
        told.append(("no whole checkpoint is left; start anew", shlex.join(["rlvis", "train", *again])))
    if any(b.get("stage") != "rollout" for b in found.broken) and again is not None:
        words = [*again, "stage=update", f"records={run_dir / 'dump'}"]
        told.append(("repeat the broken update on its own records", shlex.join(["rlvis", "train", *words])))
    return told


def _words(found: Evidence) -> list[str] | None:
    """The overrides of the run's first command, without what names this one start; None where unknown."""
    manifest = found.run.manifest
    first = (manifest.get("earlier") or [manifest])[0]
    try:
        words = shlex.split(str(first.get("command", "")))
    except ValueError:
        return None
    if not words:
        return None
    own = ("run_dir=", "resume=", "resume_allow=", "stage=", "records=")
    return [w for w in words[1:] if "=" in w and not w.startswith(own)]


def _wrapped(line: str, indent: str, hang: str = "") -> list[str]:
    return textwrap.wrap(
        line, WIDTH, initial_indent=indent, subsequent_indent=indent + hang, break_on_hyphens=False
    )


def _table(rows: list[list[str]]) -> list[str]:
    """Rows with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in lines]
