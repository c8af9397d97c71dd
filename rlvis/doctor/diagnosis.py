"""What the doctor finds: one record a check, what stops a run, and doctor.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvis.findings import Finding, Number, Severity, mistake, to_json, worst_first, write_json
from rlvis.schema import Doctor

FILE = "doctor.json"
OFF = "doctor=off goes on all the same"


def ok(name: str, what: str, numbers: Mapping[str, Number] | None = None) -> Finding:
    """A check that found all well. name: of the check, one word where it can be."""
    return Finding(name=name, severity=Severity.ok, what=what, numbers=numbers or {})


def warning(
    name: str, what: str, numbers: Mapping[str, Number] | None = None, *, why: str, type: str
) -> Finding:
    """A check that found what may spoil a training. why: what it means; type: what to type about it."""
    return _problem(Severity.warning, name, what, numbers, why, type)


def failure(
    name: str, what: str, numbers: Mapping[str, Number] | None = None, *, why: str, type: str
) -> Finding:
    """A check that found what spoils a training. why: what it means; type: what to type about it."""
    return _problem(Severity.failure, name, what, numbers, why, type)


def _problem(
    severity: Severity, name: str, what: str, numbers: Mapping[str, Number] | None, why: str, type: str
) -> Finding:
    assert why, f"{name}: a problem without why"
    assert type, f"{name}: a problem without what to type"
    return Finding(name=name, severity=severity, what=what, numbers=numbers or {}, why=why, type=type)


@dataclass(frozen=True)
class Diagnosis:
    """All findings of one examination. mode: `doctor` of the configuration. seconds: what it took."""

    mode: Doctor
    findings: tuple[Finding, ...]
    seconds: float = 0.0

    def of(self, *severities: Severity) -> list[Finding]:
        """The findings of these severities, worst first."""
        return worst_first(self.findings, *severities)

    @property
    def stopping(self) -> list[Finding]:
        """The findings for which this mode does not start the training."""
        if self.mode is Doctor.off:
            return []
        strict = (Severity.warning,) if self.mode is Doctor.strict else ()
        return self.of(Severity.failure, *strict)

    @property
    def headline(self) -> str:
        """Such as "14 checks in 1.3 s, all well" or "14 checks in 1.3 s: 1 failure, 2 warnings"."""
        counts = [(len(self.of(severity)), severity) for severity in (Severity.failure, Severity.warning)]
        bad = ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for n, severity in counts if n)
        start = f"{len(self.findings)} checks in {self.seconds:.1f} s"
        return f"{start}: {bad}" if bad else f"{start}, all well"

    def refusal(self) -> list[Finding]:
        """The findings with which a run is stopped, after one that says so."""
        return refusal(self.stopping, self.mode)


def refusal(stopping: Sequence[Finding], mode: Doctor) -> list[Finding]:
    """The findings that stop a run, after one that says so and how to go on without the doctor."""
    assert mode is not Doctor.off, "an examination that is off stops nothing"
    warns = any(finding.severity is Severity.warning for finding in stopping)
    strict = " (doctor=strict stops at warnings too)" if warns else ""
    count = f"{len(stopping)} finding{'' if len(stopping) == 1 else 's'}"
    return [mistake(f"the doctor does not start this training: {count}{strict}; {OFF}"), *stopping]


def write(diagnosis: Diagnosis, folder: Path) -> Path:
    """doctor.json in a run folder, whole or not at all."""
    content = {
        "mode": diagnosis.mode.value,
        "seconds": round(diagnosis.seconds, 3),
        "findings": [to_json(finding) for finding in diagnosis.findings],
    }
    return write_json(folder / FILE, content)
