"""Everything that an autopsy says, from the evidence of a run folder."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlvis import findings
from rlvis.findings import Finding
from rlvis.report.autopsy import causes, changes
from rlvis.report.autopsy.changes import Change
from rlvis.report.autopsy.evidence import Evidence, State, gather

READ_FILES = re.compile(r"(metrics\.jsonl|config\.yaml)")  # what an autopsy cannot do without


@dataclass(frozen=True)
class Autopsy:
    """What is known of a run; empty lists where there is nothing to say.

    moved: the first series of each family that left its past. symptoms: of rlvis.observe.health, by step.
    causes: the strongest first, with their evidence and numbers["strength"]. commands: (what for, command).
    missing: what the folder lacks or cannot be read; blind: why its metrics say nothing, empty where they do.
    """

    run: str
    state: State
    steps: int
    planned: int | None
    error: str
    first_bad: int | None
    moved: list[Change]
    symptoms: list[Finding]
    causes: list[Finding]
    commands: list[tuple[str, str]]
    missing: list[str] = field(default_factory=list)
    blind: str = ""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing suspicious."""
        ill = self.symptoms or self.causes or self.state in (State.crashed, State.killed)
        return not (ill or self.blind)


def examine(run_dir: Path) -> Autopsy | None:
    """Look into a run folder; None where it holds nothing of a run.

    Raises ValueError if there is no such folder.
    """
    evidence = gather(Path(run_dir))
    if evidence is None:
        return None
    bad = evidence.first_bad
    blind = evidence.problems[0] if evidence.problems else evidence.run.blind
    missing = [*evidence.problems, *(what for what in evidence.run.missing if READ_FILES.search(what))]
    return Autopsy(
        run=str(run_dir),
        state=evidence.state,
        steps=evidence.run.steps,
        planned=evidence.planned,
        error=evidence.error,
        first_bad=bad,
        moved=[] if bad is None else changes.first_of_each(evidence.details, bad),
        symptoms=evidence.symptoms,
        causes=causes.likely(evidence),
        commands=_commands(evidence, Path(run_dir)),
        missing=missing if blind in ("", *missing) else [*missing, blind],
        blind=blind,
    )


def to_json(autopsy: Autopsy) -> dict[str, Any]:
    """The same as JSON values."""
    return asdict(autopsy) | {
        "symptoms": [findings.to_json(symptom) for symptom in autopsy.symptoms],
        "causes": [findings.to_json(cause) for cause in autopsy.causes],
        "commands": [{"for": why, "command": command} for why, command in autopsy.commands],
    }


def _commands(evidence: Evidence, run_dir: Path) -> list[tuple[str, str]]:
    """Go on with the run, repeat its broken update, see it on a page."""
    commands = []
    ended = evidence.state in (State.crashed, State.killed, State.interrupted)
    if ended and evidence.checkpoints:
        step = int(evidence.checkpoints[-1].name.split("_")[-1])
        commands.append((f"go on after step {step}", f"rlvis train resume={shlex.quote(str(run_dir))}"))
    overrides = _overrides(evidence)
    if ended and not evidence.checkpoints and overrides is not None:
        anew = shlex.join(["rlvis", "train", *overrides])
        commands.append(("no whole checkpoint is left; start anew", anew))
    if any(dump.get("stage") != "rollout" for dump in evidence.dumps) and overrides is not None:
        again = ["rlvis", "train", *overrides, "stage=update", f"records={run_dir / 'dump'}"]
        commands.append(("repeat the broken update on its own records", shlex.join(again)))
    return commands


def _overrides(evidence: Evidence) -> list[str] | None:
    """The overrides of the run's first command, without what names this one start; None where unknown."""
    manifest = evidence.run.manifest
    first = (manifest.get("earlier") or [manifest])[0]
    try:
        words = shlex.split(str(first.get("command", "")))
    except ValueError:
        return None
    if not words:
        return None
    of_one_start = ("run_dir=", "resume=", "resume_allow=", "stage=", "records=")
    return [word for word in words[1:] if "=" in word and not word.startswith(of_one_start)]
