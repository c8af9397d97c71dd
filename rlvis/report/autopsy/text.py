"""An autopsy as text for people, in the order in which one wants to know it."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from rlvis.findings import Finding, block
from rlvis.report.autopsy.changes import Change
from rlvis.report.autopsy.evidence import State
from rlvis.report.autopsy.examine import Autopsy
from rlvis.report.judge import STATE_WORDS

WIDTH = 110

STATES = {
    State.running: "still running (its .lock is held)",
    State.finished: "finished",
    State.crashed: "crashed",
    State.killed: "killed, it left no word",
    State.interrupted: "interrupted on request",
}


def to_text(autopsy: Autopsy) -> str:
    """The autopsy as lines of WIDTH columns at most; commands and the first line may be longer."""
    lines = _head(autopsy)
    if autopsy.missing:
        lines += ["", "What is missing:", *(f"  {sentence}" for sentence in autopsy.missing)]
    if autopsy.healthy:
        return "\n".join([*lines, "Nothing suspicious."])
    if autopsy.blind and not (autopsy.symptoms or autopsy.causes):
        lines += ["", "Whether it is healthy cannot be said: its metrics say nothing."]
    if autopsy.first_bad is not None:
        lines += ["", f"First bad step: {autopsy.first_bad}"]
    if autopsy.moved:
        lines += ["", "Moved first, against the run's own past:", *_table(autopsy.moved)]
    if autopsy.symptoms:
        lines += ["", "Symptoms, by time:"]
        lines += [line for symptom in autopsy.symptoms for line in _symptom(symptom)]
    if autopsy.causes:
        lines += ["", "Likely causes, the strongest first:"]
        lines += [line for i, cause in enumerate(autopsy.causes, 1) for line in _cause(i, cause)]
    if autopsy.commands:
        lines += ["", "What to type:"]
        lines += [line for why, command in autopsy.commands for line in (f"  {why}:", f"    {command}")]
    return "\n".join(lines)


def _head(autopsy: Autopsy) -> list[str]:
    """Run, state, steps, and the error that ended it."""
    of = "" if autopsy.planned is None else f" of {autopsy.planned}"
    lines = [f"{autopsy.run}: {STATES[autopsy.state]}, {autopsy.steps}{of} steps written"]
    if autopsy.state is State.crashed and not autopsy.error:
        lines.append("  exit code 1 without an error of its own: its last checkpoint could not be written")
    if autopsy.error:
        first, margin = autopsy.error.splitlines()[0], "  "
        lines += textwrap.wrap(
            first, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
        )
    return lines


def _symptom(symptom: Finding) -> list[str]:
    """Step, severity and name, and what was seen; why and what to type are said with the causes."""
    head = f"  step {symptom.step:<5} {STATE_WORDS[symptom.severity]:<11} {symptom.name}"
    return [head, *block(replace(symptom, why="", type=""), width=WIDTH, indent=" " * 13)]


def _cause(number: int, cause: Finding) -> list[str]:
    first, *rest = block(cause, width=WIDTH, indent=" " * 5)
    return [f"{number:>3}. {first.lstrip()}", *rest]


def _table(moved: list[Change]) -> list[str]:
    """Rows with aligned columns."""
    rows = [
        (f"step {m.step}", m.family, m.name, f"{m.before:.3g} -> {m.after:.3g}", f"{m.spreads:.0f} spreads")
        for m in moved
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in lines]
