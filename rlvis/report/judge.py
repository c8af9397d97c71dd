"""The verdict on a run: healthy, suspicious or broken, and every reason with its number and what to type.

Reasons come from the rules of `rlvis.observe.health`, from the doctor's findings (doctor.json) and from the
dump of a broken step. Whether the run is finished is said beside the verdict, not in it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from rlvis.findings import Finding, Severity, worst_first
from rlvis.observe import health
from rlvis.report import folder
from rlvis.report.folder import DOCTOR, RunFolder, json_object
from rlvis.runs import lock
from rlvis.runtime.interrupt import EXIT_CODE as INTERRUPTED

log = logging.getLogger(__name__)

HEALTHY, UNKNOWN = "healthy", "unknown"
# What a reader sees of a severity, and the verdict that it makes.
STATE_WORDS = {Severity.ok: "ok", Severity.warning: "suspicious", Severity.failure: "broken"}
TEXT = 600  # characters of an error


@dataclass(frozen=True)
class Judgement:
    """What is thought of a run. progress: a sentence on how far it came; finished: whether that is all.

    reasons: why it is not healthy, the worst first. doctor: None where the doctor left nothing.
    """

    verdict: str
    progress: str
    finished: bool
    reasons: list[Finding] = field(default_factory=list)
    symptoms: list[Finding] = field(default_factory=list)
    limits: dict[str, health.Range] = field(default_factory=dict)
    doctor: list[Finding] | None = None
    problems: list[str] = field(default_factory=list)


def judge(run: RunFolder) -> Judgement:
    """Look at everything that the run left. Never raises; what fails is in `problems`."""
    problems: list[str] = []
    symptoms: list[Finding] = []
    limits: dict[str, health.Range] = {}
    try:
        symptoms = health.symptoms(run.rows, run.config)
        limits = health.limits(run.config)
    except Exception as error:  # a metrics file with anything in it must not cost the page
        log.exception("the health of %s could not be judged", run.path)
        problems.append(f"The metrics could not be judged: {type(error).__name__}: {error}.")
    if run.rows and run.blind:
        problems.append(run.blind)
    doctor = folder.doctor_findings(run.path)
    if doctor is None and (run.path / DOCTOR).is_file():
        problems.append(f"{DOCTOR} cannot be read.")
    foreseen = [
        replace(finding, name=f"doctor: {finding.name}", severity=Severity.warning)
        for finding in doctor or ()
        if finding.severity is Severity.failure
    ]
    reasons = worst_first([*_dumps(run), *_crash(run), *symptoms, *foreseen])
    quiet = UNKNOWN if run.blind or problems else HEALTHY
    verdict = STATE_WORDS[reasons[0].severity] if reasons else quiet
    progress, finished = _progress(run)
    return Judgement(verdict, progress, finished, reasons, symptoms, limits, doctor, problems)


def _progress(run: RunFolder) -> tuple[str, bool]:
    wanted, done = run.setting("train.steps"), run.steps
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


def _dumps(run: RunFolder) -> list[Finding]:
    """The steps that broke off."""
    findings = []
    for path in sorted(run.path.glob("dump/step_*/broken.json")):
        dump = json_object(path) or {}
        step = dump.get("step")
        what = str(dump.get("what") or "a step broke off")
        findings.append(
            Finding(
                name="broken step",
                what=f"Step {step}: {what}" if step is not None else what,
                wanted="finite losses and gradients",
                why=f"the records of that step are in {path.parent.relative_to(run.path)}",
                type=f"rlvis autopsy {run.path}",
                step=step if isinstance(step, int) else None,
            )
        )
    return findings


def _crash(run: RunFolder) -> list[Finding]:
    """What exit.json says of a run that failed; an interrupted one did not."""
    ended = json_object(run.path / "exit.json") or {}
    if ended.get("code") in (0, None, INTERRUPTED):
        return []
    what = f"{ended.get('error') or 'an error'}: {ended.get('message') or ''}".strip()
    frames = ended.get("frames")
    where = f"raised at {frames[-1]}" if isinstance(frames, list) and frames else ""
    advice = f"rlvis autopsy {run.path}"
    return [Finding(name="failed", what=what[:TEXT], why=where, type=advice, step=run.steps or None)]
