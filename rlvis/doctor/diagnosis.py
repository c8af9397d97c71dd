"""What the doctor finds: one record a finding, a table for a terminal, doctor.json, and what stops a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path

from rlvis.schema import Doctor

Number = float | int | str
OK, WARNING, FAILURE = "ok", "warning", "failure"
LEVELS = (OK, WARNING, FAILURE)
FILE = "doctor.json"
OFF = "doctor=off goes on all the same"


@dataclass(frozen=True)
class Finding:
    """One check and how it came out.

    check: short name, one word where it can be. level: ok | warning | failure. what: one sentence with its
    numbers. numbers: the same as data. why: what it means for training. type: what to type about it; both
    empty where all is well.
    """

    check: str
    level: str
    what: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    why: str = ""
    type: str = ""

    def __post_init__(self) -> None:
        assert self.level in LEVELS, self.level
        assert self.level == OK or (self.why and self.type), f"{self.check}: a problem without why and type"

    @property
    def told(self) -> str:
        """The finding as one line: check, what, why, what to type."""
        parts = [f"{self.check}: {self.what}", self.why, self.type and f"type {self.type}"]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class Diagnosis:
    """All findings of one examination. mode: `doctor` of the configuration. seconds: what it took."""

    mode: Doctor
    findings: tuple[Finding, ...]
    seconds: float = 0.0

    def of(self, *levels: str) -> list[Finding]:
        """The findings of these levels, worst first."""
        return [f for level in reversed(LEVELS) if level in levels for f in self.findings if f.level == level]

    @property
    def stopping(self) -> list[Finding]:
        """The findings for which this mode does not start the training."""
        if self.mode is Doctor.off:
            return []
        return self.of(FAILURE, WARNING) if self.mode is Doctor.strict else self.of(FAILURE)

    @property
    def headline(self) -> str:
        """Such as "14 checks in 1.3 s, all well" or "14 checks in 1.3 s: 1 failure, 2 warnings"."""
        counts = [(len(self.of(level)), level) for level in (FAILURE, WARNING)]
        bad = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for n, level in counts if n)
        start = f"{len(self.findings)} checks in {self.seconds:.1f} s"
        return f"{start}: {bad}" if bad else f"{start}, all well"

    def refusal(self) -> str:
        """The message with which a run is stopped, one line a finding."""
        return refusal(self.stopping, self.mode)


def refusal(found: Sequence[Finding], mode: Doctor) -> str:
    """The message for findings that stop a run: one line each, and how to go on without the doctor."""
    strict = " (doctor=strict stops at warnings too)" if any(f.level == WARNING for f in found) else ""
    count = f"{len(found)} finding{'' if len(found) == 1 else 's'}"
    assert mode is not Doctor.off, "an examination that is off stops nothing"
    first = f"the doctor does not start this training: {count}{strict}; {OFF}"
    return "\n".join([first, *(f.told for f in found)])


def write(diagnosis: Diagnosis, folder: Path) -> Path:
    """doctor.json in a run folder, whole or not at all; numbers that are not finite as text."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "mode": diagnosis.mode.value,
        "seconds": round(diagnosis.seconds, 3),
        "findings": [asdict(f) | {"numbers": _plain(f.numbers)} for f in diagnosis.findings],
    }
    aside = folder / f".{FILE}"
    aside.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(folder / FILE)
    return folder / FILE


def table(diagnosis: Diagnosis, width: int | None = None, colour: bool = False) -> str:
    """The findings as text for a terminal: a line each, and below a problem its why and what to type.

    width: columns; None takes the terminal's. colour: with escape codes.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {OK: "green", WARNING: "yellow", FAILURE: "bold red"}
    grid = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in diagnosis.findings:
        lines = [finding.what]
        if finding.level != OK:
            lines += [f"why: {finding.why}", f"type: {finding.type}"]
        cells = Text(finding.level, styles[finding.level]), Text(finding.check), Text("\n".join(lines))
        grid.add_row(*cells)
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    console.print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _plain(numbers: Mapping[str, Number]) -> dict[str, Number]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in numbers.items()
    }


def combined(groups: Iterable[Iterable[Finding]]) -> tuple[Finding, ...]:
    """The findings of several checks, in order."""
    return tuple(finding for group in groups for finding in group)
