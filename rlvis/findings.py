"""What is wrong, with its numbers, why it matters and what to type: one record, one printer.

Checks of a configuration, the doctor, the health of a run, sentinels, autopsies, plans and verdicts all speak
in findings. A mistake of the user's travels as a ConfigError, which carries them and which every room can
raise. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import Any

from rlvis import writing

Number = float | int | str


class Severity(StrEnum):
    """How bad it is; a failure stops what can be stopped."""

    ok = "ok"
    warning = "warning"
    failure = "failure"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at, and how it came out.

    name: short, as in ratio-first; empty where `what` begins with the key. what: one sentence with its
    numbers; numbers: the same as data. wanted: what would be right, in words. why: what it means, or its
    likely cause. type: what to type about it. source: the metric, key or file that shows it; step: the
    training step, from 1. evidence: sentences that speak for it.
    """

    name: str = ""
    severity: Severity = Severity.failure
    what: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    wanted: str = ""
    why: str = ""
    type: str = ""
    source: str = ""
    step: int | None = None
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: name, what, why, what to type."""
        head = f"{self.name}: {self.what}" if self.name else self.what
        return "; ".join(part for part in (head, self.why, self.type and f"type {self.type}") if part)


class ConfigError(ValueError):
    """A configuration that cannot run: its findings for the user, a line each, exit code 2, no traceback."""

    def __init__(self, *findings: Finding | str) -> None:
        self.findings = tuple(Finding(what=f) if isinstance(f, str) else f for f in findings)
        super().__init__("\n".join(map(str, self.findings)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[Finding, ...]]:
        """Errors travel between ranks."""
        return type(self), self.findings


def mistake(what: str, type: str = "", *, why: str = "") -> Finding:
    """A value that cannot be: what it is and what was wanted, why, and what to type."""
    return Finding(what=what, why=why, type=type)


def as_lines(findings: Iterable[Finding], prefix: str = "") -> list[str]:
    """The findings a line each (where its text has several, so many), after `prefix`."""
    return [prefix + line for finding in findings for line in str(finding).splitlines()]


def worst_first(findings: Iterable[Finding], *severities: Severity) -> list[Finding]:
    """The findings of these severities (all, where none is named), the worst first."""
    order = [Severity.failure, Severity.warning, Severity.ok]
    chosen = [f for f in findings if not severities or f.severity in severities]
    return sorted(chosen, key=lambda f: order.index(f.severity))


def to_json(finding: Finding) -> dict[str, Any]:
    """As JSON values: numbers that are not finite as text."""
    return asdict(finding) | {"numbers": {key: _plain(value) for key, value in finding.numbers.items()}}


def from_json(values: Mapping[str, Any]) -> Finding:
    """The other way round, forgiving: what is missing or of another type is left out; doctor.json of earlier
    versions (check and level in the place of name and severity) is read too.
    """
    severity = str(values.get("severity", values.get("level", "")))
    numbers, evidence = values.get("numbers"), values.get("evidence")
    return Finding(
        name=str(values.get("name", values.get("check", ""))),
        severity=Severity(severity) if severity in list(Severity) else Severity.warning,
        what=str(values.get("what", "")),
        numbers=dict(numbers) if isinstance(numbers, Mapping) else {},
        wanted=str(values.get("wanted", "")),
        why=str(values.get("why", "")),
        type=str(values.get("type", "")),
        source=str(values.get("source", "")),
        step=values["step"] if isinstance(values.get("step"), int) else None,
        evidence=tuple(map(str, evidence)) if isinstance(evidence, (list, tuple)) else (),
    )


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """A JSON object into `path`, whole or not at all."""
    return writing.text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def block(finding: Finding, *, width: int, indent: str = "", hang: str = "") -> list[str]:
    """The finding as wrapped lines: what (and what was wanted), the evidence, why, what to type."""
    first = finding.what + (f". Wanted: {finding.wanted}." if finding.wanted else "")
    parts = [
        (first, hang),
        *((f"- {line}", "  ") for line in finding.evidence),
        (finding.why and f"why: {finding.why}", "     "),
        (finding.type and f"type: {finding.type}", "      "),
    ]
    return [
        line
        for text, more in parts
        if text
        for line in textwrap.wrap(
            text, width, initial_indent=indent, subsequent_indent=indent + more, break_on_hyphens=False
        )
    ]


def table(findings: Iterable[Finding], width: int | None = None, colour: bool = False) -> str:
    """The findings as text for a terminal: a row each, and below a problem its why and what to type.

    width: columns; None takes the terminal's. colour: with escape codes.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {Severity.ok: "green", Severity.warning: "yellow", Severity.failure: "bold red"}
    grid = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        cell = [finding.what]
        if finding.severity is not Severity.ok:
            cell += [
                f"{label}: {text}" for label, text in (("why", finding.why), ("type", finding.type)) if text
            ]
        severity = Text(finding.severity, styles[finding.severity])
        grid.add_row(severity, Text(finding.name), Text("\n".join(cell)))
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    console.print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _plain(value: Number) -> Number:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
