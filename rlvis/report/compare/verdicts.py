"""What is thought of each arm and run: trouble of learning apart from trouble of the machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from rlvis.findings import Finding, worst_first
from rlvis.observe.health import machine
from rlvis.observe.health.rules import RULES
from rlvis.report.compare.arms import Arm, Member
from rlvis.report.compare.measured import Several
from rlvis.report.folder import json_object
from rlvis.report.judge import HEALTHY, STATE_WORDS, UNKNOWN
from rlvis.report.panels.base import Panel, Table, num, short, state
from rlvis.report.panels.verdict import ends

# What the machine does to a run, by the names of findings and of exceptions.
MACHINE = {rule.name for rule in RULES if rule.look.__module__ == machine.__name__} | {"doctor: memory"}
MACHINE_ERRORS = ("OutOfMemoryError", "MemoryError", "OSError", "BrokenPipeError", "DistBackendError")
MOST = 12  # runs that are shown without being asked for
ORDER = ("broken", "suspicious", UNKNOWN, HEALTHY)  # the worst first


def of_arms(several: Several) -> Panel:
    """A row an arm: the worst of its runs and how many of each, the machine, reward and held-out result."""
    rows = [_arm(arm) for arm in several.arms]
    header = ("arm", "verdict", "runs", "machine", "steps", "reward, first", "last", "held-out", "why")
    note = (
        "The verdict is that of the arm's worst run; what its machine did (slow steps, memory, a full disk) "
        "stands apart. Rewards and held-out results are means over runs."
    )
    return Panel(
        "Verdicts", "table", Table(header, rows, frozenset({4, 5, 6, 7}), frozenset({8}), stacked=True), note
    )


def of_runs(several: Several) -> Panel:
    """A row a run, with a link to its own page."""
    rows = [_run(member, several.to) for member in several.members]
    header = (
        "run",
        "verdict",
        "machine",
        "steps",
        "reward, first",
        "last",
        "held-out",
        "s a step",
        "why",
    )
    table = Table(header, rows, frozenset({3, 4, 5, 6, 7}), frozenset({8}), stacked=True)
    without = [m.run.path for m in several.members if not (m.run.path / "report.html").is_file()]
    note = (
        f"Without a report of their own yet: {', '.join(map(str, without))}; type rlvis report RUN."
        * bool(without)
    )
    return Panel("Runs", "table", table, note, folded=len(rows) > MOST)


def split(member: Member) -> tuple[list[Finding], list[Finding]]:
    """What is wrong with the learning of a run, and with its machine, the worst first."""
    ended = str((json_object(member.run.path / "exit.json") or {}).get("error"))
    crashed = ended in MACHINE_ERRORS
    of_machine = [
        r for r in member.judgement.reasons if r.name in MACHINE or (crashed and r.name == "failed")
    ]
    return [r for r in member.judgement.reasons if r not in of_machine], of_machine


def verdict(member: Member) -> str:
    """The verdict on a run without what its machine did."""
    learning, of_machine = split(member)
    if learning:
        return STATE_WORDS[worst_first(learning)[0].severity]
    blind = member.run.blind or member.judgement.problems
    return UNKNOWN if blind else HEALTHY if of_machine else member.judgement.verdict


def _arm(arm: Arm) -> tuple[str | Markup, ...]:
    verdicts = [verdict(member) for member in arm.members]
    counts = Counter(verdicts)
    worst = next(each for each in ORDER if each in counts)
    words = ", ".join(f"{counts[each]} {each}" for each in ORDER if each in counts)
    steps = [member.run.steps for member in arm.members]
    unfinished = sum(not member.judgement.finished for member in arm.members)
    reached = str(steps[0]) if len(set(steps)) == 1 else f"{min(steps)} .. {max(steps)}"
    first, last = _mean_ends(arm.members)
    held = [value for member in arm.members if (value := _last(member)) is not None]
    return (
        arm.label,
        state(worst, worst),
        words + (f"; {unfinished} unfinished" if unfinished else ""),
        _machine(arm.members),
        reached,
        first,
        last,
        num(float(np.mean(held)), 3) if held else "-",
        short("; ".join(_why(arm.members)), 400) or "-",
    )


def _run(member: Member, to: Path) -> tuple[str | Markup, ...]:
    run, judgement, thought = member.run, member.judgement, verdict(member)
    first, last = _mean_ends([member])
    wanted = run.setting("train.steps")
    unfinished = "" if judgement.finished else " (unfinished)"
    times = run.series("time/step").finite.value
    return (
        _link(member, to),
        state(thought, thought),
        _machine([member]),
        f"{run.steps} / {wanted}{unfinished}" if isinstance(wanted, int) else str(run.steps),
        first,
        last,
        _held_out(member),
        num(float(np.median(times)), 3) if len(times) else "-",
        short("; ".join(_why([member])), 400) or ("-" if judgement.finished else judgement.progress),
    )


def _why(members: Sequence[Member]) -> list[str]:
    """The worst finding of each kind about learning, and in how many runs, of several."""
    found: dict[str, list[Finding]] = {}
    for member in members:
        for finding in {f.name: f for f in reversed(split(member)[0])}.values():
            found.setdefault(finding.name, []).append(finding)
    firsts = worst_first(each[0] for each in found.values())
    words = [f"{f.name}: {f.what}" if i == 0 else f.name for i, f in enumerate(firsts[:4])]
    if len(members) > 1:
        words = [
            f"{word} ({len(found[f.name])} of {len(members)} runs)"
            for word, f in zip(words, firsts, strict=False)
        ]
    return words + (["and others"] if len(firsts) > 4 else [])


def _machine(members: Sequence[Member]) -> str | Markup:
    """What the machine did, as a state with the names of it."""
    found = worst_first(finding for member in members for finding in split(member)[1])
    if not found:
        return state("ok", "ok")
    names = ", ".join(dict.fromkeys(finding.name for finding in found))
    return state(STATE_WORDS[found[0].severity], names)


def _mean_ends(members: Sequence[Member]) -> tuple[str, str]:
    """Reward over the first and the last tenth of the steps, the mean over runs."""
    rewards = [reward for m in members if len(reward := m.run.series("reward/mean").finite)]
    if not rewards:
        return "-", "-"
    first, last = np.mean([ends(reward)[:2] for reward in rewards], axis=0)
    return num(float(first), 3), num(float(last), 3)


def _link(member: Member, to: Path) -> str | Markup:
    """The run's own report, relative to the page; plain text where it has none."""
    page = member.run.path / "report.html"
    if not page.is_file():
        return member.label
    where = quote(os.path.relpath(page.resolve(), to.resolve().parent))
    return Markup('<a href="{}">{}</a>').format(where, member.label)


def _last(member: Member) -> float | None:
    """The last evaluation's accuracy, else score or first scorer."""
    key = _headline(member)
    return float(member.evaluations.entries[-1]["mean"][key]) if key else None


def _held_out(member: Member) -> str:
    """The same with its standard error."""
    key, value = _headline(member), _last(member)
    error = member.evaluations.entries[-1]["standard_error"].get(key) if key else None
    return num(value, 3) + (f" +- {num(error, 2)}" if error else "")


def _headline(member: Member) -> str:
    entries = member.evaluations.entries
    means = entries[-1]["mean"] if entries else {}
    return next((key for key in ("eval/accuracy", "eval/score", *means) if key in means), "")
