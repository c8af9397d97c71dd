"""The verdict on a run: healthy, suspicious or broken, and every reason with its number and what to type.

Reasons come from the rules of `rlvis.observe.health`, from the doctor's findings (doctor.json) and from the
dump of a broken step. Whether the run is finished is said beside the verdict, not in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvis.observe import health
from rlvis.observe.symptom import BROKEN, SUSPICIOUS, Symptom
from rlvis.report.folder import RunFolder, json_object
from rlvis.runs import lock

log = logging.getLogger(__name__)

HEALTHY, UNKNOWN = "healthy", "unknown"
DOCTOR = "doctor.json"
INTERRUPTED = 130  # exit code of a run that was told to stop
TEXT = 600  # characters of an error


@dataclass(frozen=True)
class Finding:
    """A line of doctor.json. level: ok | warning | failure."""

    check: str
    level: str
    what: str
    numbers: dict[str, str]
    why: str
    type: str


@dataclass(frozen=True)
class Reason:
    """Why a run is not healthy; texts may be empty."""

    severity: str
    name: str
    what: str
    wanted: str
    why: str
    type: str
    step: int | None = None


@dataclass(frozen=True)
class Judgement:
    """What is thought of a run. progress: a sentence on how far it came; finished: whether that is all."""

    verdict: str
    progress: str
    finished: bool
    reasons: list[Reason] = field(default_factory=list)
    symptoms: list[Symptom] = field(default_factory=list)
    limits: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    doctor: list[Finding] | None = None  # None: the doctor left nothing
    problems: list[str] = field(default_factory=list)


def judge(run: RunFolder) -> Judgement:
    """Look at everything that the run left. Never raises; what fails is in `problems`."""
    problems: list[str] = []
    symptoms: list[Symptom] = []
    limits: dict[str, tuple[float | None, float | None]] = {}
    try:
        symptoms = list(health.symptoms(run.rows, run.config))
        limits = dict(health.limits(run.config))
    except Exception as error:  # a metrics file with anything in it must not cost the page
        log.exception("the health of %s could not be judged", run.path)
        problems.append(f"The metrics could not be judged: {type(error).__name__}: {error}.")
    doctor = _doctor(run, problems)
    reasons = [
        *_dumps(run),
        *_crash(run),
        *(Reason(s.severity, s.name, s.what, s.limit, s.why, s.type, s.step) for s in symptoms),
        *(
            Reason(SUSPICIOUS, f"doctor: {f.check}", f.what, "", f.why, f.type)
            for f in doctor or ()
            if f.level == "failure"
        ),
    ]
    reasons.sort(key=lambda reason: reason.severity != BROKEN)
    if reasons:
        verdict = BROKEN if any(reason.severity == BROKEN for reason in reasons) else SUSPICIOUS
    else:
        verdict = HEALTHY if run.steps and not problems else UNKNOWN
    progress, finished = _progress(run)
    return Judgement(verdict, progress, finished, reasons, symptoms, limits, doctor, problems)


def _progress(run: RunFolder) -> tuple[str, bool]:
    wanted, done = run.told("train.steps"), run.steps
    resumed = run.manifest.get("earlier")
    again = f", started {len(resumed) + 1} times" if isinstance(resumed, list) and resumed else ""
    if lock.is_held(run.path):
        of = f" of {wanted}" if isinstance(wanted, int) else ""
        return f"Still being written: {done}{of} steps so far{again}.", False
    if not isinstance(wanted, int):
        return f"{done} steps; how many were wanted is not known{again}.", False
    if done < wanted:
        return f"Unfinished: {done} of {wanted} steps{again}. Go on with resume={run.path}.", False
    return f"Finished: {done} of {wanted} steps{again}.", True


def _doctor(run: RunFolder, problems: list[str]) -> list[Finding] | None:
    if not (run.path / DOCTOR).is_file():
        return None
    told = json_object(run.path / DOCTOR)
    findings = told.get("findings") if told else None
    if not isinstance(findings, list):
        problems.append(f"{DOCTOR} cannot be read.")
        return None
    return [_finding(row) for row in findings if isinstance(row, Mapping)]


def _finding(row: Mapping[str, Any]) -> Finding:
    told = row.get("numbers")
    numbers = {str(k): _shown(v) for k, v in told.items()} if isinstance(told, Mapping) else {}
    texts = {key: str(row.get(key) or "") for key in ("check", "level", "what", "why", "type")}
    return Finding(numbers=numbers, **texts)


def _dumps(run: RunFolder) -> list[Reason]:
    found = []
    for path in sorted(run.path.glob("dump/step_*/broken.json")):
        told = json_object(path) or {}
        step = told.get("step")
        what = str(told.get("what") or "a step broke off")
        found.append(
            Reason(
                BROKEN,
                "broken step",
                f"Step {step}: {what}" if step is not None else what,
                "finite losses and gradients",
                f"the records of that step are in {path.parent.relative_to(run.path)}",
                f"rlvis autopsy {run.path}",
                step if isinstance(step, int) else None,
            )
        )
    return found


def _crash(run: RunFolder) -> list[Reason]:
    """What exit.json says of a run that failed; an interrupted one did not."""
    told = json_object(run.path / "exit.json") or {}
    if told.get("code") in (0, None, INTERRUPTED):
        return []
    what = f"{told.get('error') or 'an error'}: {told.get('message') or ''}".strip()
    frames = told.get("frames")
    where = f"raised at {frames[-1]}" if isinstance(frames, list) and frames else ""
    return [Reason(BROKEN, "failed", what[:TEXT], "", where, f"rlvis autopsy {run.path}", run.steps or None)]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
