"""The first screen: the verdict with its reasons, how far the run came, the numbers looked at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from markupsafe import Markup

from rlvis.findings import Finding
from rlvis.observe.history import Series
from rlvis.report import heldout
from rlvis.report.folder import RunFolder, json_object
from rlvis.report.judge import STATE_WORDS, Judgement
from rlvis.report.panels import curves, evaluation, samples
from rlvis.report.panels.base import SIGNS, Context, Panel

BUDGET = 200_000  # bytes of base64
WORDS = {
    "healthy": "Nothing looks wrong.",
    "suspicious": "Something looks wrong.",
    "broken": "This run is broken.",
    "unknown": "There is nothing to judge.",
}


@dataclass(frozen=True)
class Verdict:
    """The first lines: what is thought of the run, one sentence about its reward, a few numbers.

    reasons: each behind the word for its severity.
    """

    judgement: Judgement
    sign: str
    words: str
    sentence: str
    reasons: list[tuple[str, Finding]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


def verdict(context: Context) -> Panel:
    """State, reasons and the counts that a reader checks first."""
    judgement = context.judgement
    shown = Verdict(
        judgement,
        SIGNS[judgement.verdict],
        WORDS[judgement.verdict],
        " ".join(filter(None, [reward_sentence(context.run), held_out_sentence(context.run)])),
        [(STATE_WORDS[reason.severity], reason) for reason in judgement.reasons],
        facts(context.run),
    )
    return Panel("", "verdict", shown, " ".join(judgement.problems))


def first_figures(context: Context) -> Panel:
    """The reward, and what held-out prompts say."""
    drawn = [curves.reward(context.run, "first-reward")]
    held = evaluation.headline(context.run)
    return Panel("", "figures", [*drawn, held] if held else drawn)


def first_samples(context: Context) -> Panel | None:
    """Fixed prompts before and after; None for a run that drew none."""
    sheets = context.run.samples
    if not sheets:
        return None
    ends = [sheets[0], sheets[-1]] if len(sheets) > 1 else list(sheets)
    prompts, _ = samples.evolve(ends, BUDGET * context.room, side=128, most=6)
    return Panel("First and last samples", "pairs", prompts) if prompts else None


def missing(context: Context) -> Panel | None:
    """What the run folder lacks."""
    if not context.run.missing:
        return None
    items = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in context.run.missing)
    return Panel("What is missing", "markup", Markup("<ul>{}</ul>").format(items))


def held_out_sentence(run: RunFolder) -> str:
    """What training did to held-out prompts; empty for a run that did not ask them twice."""
    line = heldout.outcome(run.path)
    return f"{line[0].upper()}{line[1:]}." if line else ""


def reward_sentence(run: RunFolder) -> str:
    """Reward over the first and last tenth of the steps."""
    reward = run.series("reward/mean").finite
    if not len(reward):
        return "No reward was written, so nothing can be said about it."
    if len(reward) == 1:
        return f"Reward {reward.value[0]:.4g} at step {reward.step[0]}, the only step."
    first, last, n = ends(reward)
    over = (
        f"means over the first and last {n} of {len(reward)} steps"
        if n > 1
        else f"first and last of {len(reward)} steps"
    )
    return f"Reward {first:.4g} -> {last:.4g} ({last - first:+.3g}; {over})."


def ends(series: Series) -> tuple[float, float, int]:
    """Means over the first and the last tenth of a series without gaps, and how many values that is."""
    n = max(1, round(0.1 * len(series)))
    return float(series.value[:n].mean()), float(series.value[-n:].mean()), n


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """Name and value of the facts that metrics.jsonl has."""
    rows = [("training steps", f"{sum(row['step'] > 0 for row in run.rows)}")]  # 0 is before the first

    def add(name: str, key: str, fold: Callable[[Series], float], form: str) -> None:
        values = run.series(key)
        if len(values):
            rows.append((name, format(fold(values), form)))

    first = "max |ratio - 1| before the first update of a step"
    add(first, "ratio/max_deviation_first", lambda s: s.value.max(), ".2g")
    add("max |ratio - 1|", "ratio/max_deviation", lambda s: s.value.max(), ".2g")
    add("samples masked as invalid", "reward/invalid_count", lambda s: s.value.sum(), ".0f")
    add("groups without a signal, mean", "group/zero_variance_fraction", lambda s: s.value.mean(), ".1%")
    add("seconds a step, median", "time/step", lambda s: float(sorted(s.value)[len(s) // 2]), ".3g")
    add("time in steps, minutes", "time/step", lambda s: s.value.sum() / 60, ".3g")
    if run.series("memory/max_gib").value.any():  # 0 on a CPU
        add("largest memory, GiB", "memory/max_gib", lambda s: s.value.max(), ".3g")
    moved = (json_object(run.path / "exit.json") or {}).get("moved")
    if isinstance(moved, int | float):
        rows.append(("exported weights from where they began, of their norm", f"{moved:.2g}"))
    return rows
