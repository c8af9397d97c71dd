"""The update's health: each number that tells it with its limit and state, their curves with the limits in
them, and what the doctor found before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from rlvis.findings import Finding, Number, Severity, worst_first
from rlvis.observe import metric_table
from rlvis.observe.health import Range
from rlvis.observe.history import Series
from rlvis.report import plots
from rlvis.report.judge import STATE_WORDS
from rlvis.report.panels.base import (
    Context,
    Drawing,
    Panel,
    Table,
    code,
    drawing,
    lost,
    named,
    num,
    short,
    spans,
    state,
)

ROWS = {
    "ratio/max_deviation_first": "|ratio - 1| before the first update",
    "ratio/max_deviation": "|ratio - 1|, all updates",
    "clip/fraction_high": "share clipped above",
    "clip/fraction_low": "share clipped below",
    "kl/approx": "KL, old to new policy",
    "kl/reference": "KL to the reference",
    "update/grad_norm": "gradient norm",
    "update/loss": "loss",
    "group/zero_variance_fraction": "groups without a signal",
    "reward/invalid_count": "invalid samples a step",
    "data/truncated_prompts": "truncated prompts a step",
    "trust/effective_groups": "effective groups",
    "trust/inverted_fraction": "pairs turned around by the contrast",
    "map/entropy": "entropy of the maps",
    "map/failed": "maps that failed a step",
}


def table(context: Context) -> Panel:
    """Limit and state of every number that tells the update's health."""
    run, judgement = context.run, context.judgement
    first: dict[str, Finding] = {}
    for symptom in judgement.symptoms:
        first.setdefault(symptom.source, symptom)
    rows = []
    for key in dict.fromkeys([*ROWS, *first]):
        values = run.series(key)
        if len(values) or key in first:
            rows.append(_row(key, values, judgement.limits.get(key, (None, None)), first.get(key)))
    header = ("number", "state", "limit", "last", "worst", "at step")
    note = "" if rows else "No training step was written, so there is nothing to hold against a limit."
    return Panel("", "table", Table(header, rows, frozenset({3, 4, 5})) if rows else None, note)


def _row(key: str, values: Series, limit: Range, symptom: Finding | None) -> tuple[str | Markup, ...]:
    low, high = limit
    name = ROWS.get(key, key)
    outside = _outside(values, low, high)
    if symptom is not None:
        word = STATE_WORDS[symptom.severity]
        shown = state(word, f"{word} from step {symptom.step}")
    elif len(outside):
        first = values.step[outside[0]]
        shown = state("outside", f"outside in {len(outside)} of {len(values)} steps, first at {first}")
    else:
        shown = state("ok", "ok")
    entry = metric_table.find(key)
    wanted = _words(low, high) or (symptom.wanted if symptom else entry.healthy if entry else "")
    if not len(values):
        return (name, shown, wanted, "-", "-", "-")
    falls = low is not None and high is None
    finite = values.finite
    if len(finite) < len(values):  # a value that is no number is the worst there is
        at = int(np.nonzero(~np.isfinite(values.value))[0][0])
    else:
        at = int(values.value.argmin() if falls else np.abs(values.value).argmax())
    worst, step = values.value[at], values.step[at]
    if symptom is not None and (low, high) == (None, None):  # no level is bad in itself: where it showed
        worst, step = symptom.numbers["value"], symptom.step
    return (name, shown, wanted, num(values.value[-1]), num(worst), str(step))


def _outside(values: Series, low: float | None, high: float | None) -> np.ndarray:
    """Positions of the values beyond a limit, or not finite."""
    bad = ~np.isfinite(values.value)
    if low is not None:
        bad |= values.value < low
    if high is not None:
        bad |= values.value > high
    return np.nonzero(bad)[0]


def _words(low: float | None, high: float | None) -> str:
    if high == 0 and low is None:
        return "0"
    parts = [f"at least {num(low)}"] if low is not None else []
    return " and ".join([*parts, f"at most {num(high)}"] if high is not None else parts)


def figures(context: Context) -> Panel:
    """Curves of the same numbers, with their limits where these are near."""
    run = context.run
    norm = run.series("update/grad_norm")
    first = run.series("ratio/max_deviation_first")
    exact = " It was exactly 0 in every step." if len(first) and not first.value.any() else ""
    drawings = [
        _limited(
            context,
            "Ratio",
            {"all updates": "ratio/max_deviation", "before the first update": "ratio/max_deviation_first"},
            "max |ratio - 1|",
            "Before the first update of a step the policy has not moved, so the deviation must be 0." + exact,
            log=True,
        ),
        _limited(
            context,
            "Clipped ratios",
            {"above 1 + clip": "clip/fraction_high", "below 1 - clip": "clip/fraction_low"},
            "share of ratios",
            "Share of ratios outside the clip range.",
        ),
        _limited(
            context,
            "KL",
            {
                label: key
                for label, key in {"old to new": "kl/approx", "to reference": "kl/reference"}.items()
                if key in run.keys
            },
            "nats",
            "Old to new: mean of (log ratio)^2 / 2.",
            log=True,
        ),
        _limited(
            context,
            "Gradient norm",
            {"gradient norm": "update/grad_norm"},
            "gradient norm",
            "Global norm before clipping.",
            log=spans(norm, 100),
        ),
        _limited(
            context,
            "Groups without a signal",
            {"share": "group/zero_variance_fraction"},
            "share of groups",
            "Prompts whose samples all scored the same, or with fewer than two valid samples.",
        ),
        _limited(
            context,
            "Invalid samples",
            {"invalid": "reward/invalid_count"},
            "samples a step",
            "Masked because a scorer failed or gave no finite score; never counted as 0.",
        ),
    ]
    return Panel("Curves with limits", "figures", drawings, "Dashed: the limit, where it is near the values.")


def _limited(
    context: Context, title: str, keys: Mapping[str, str], ylabel: str, caption: str, log: bool = False
) -> Drawing:
    curves = named(context.run, keys)
    limits = context.judgement.limits
    bounds = {b for key in keys.values() for b in limits.get(key, (None, None)) if b is not None}
    name = "health-" + title.lower().replace(" ", "-")
    return drawing(
        title,
        lambda: plots.lines(name, curves, ylabel=ylabel, log=log, limits=sorted(bounds)),
        caption + lost(*curves.values()),
    )


def doctor(context: Context) -> Panel | None:
    """What the doctor found before training; None where it was not asked."""
    findings = context.judgement.doctor
    if findings is None:
        return None
    odd = worst_first(findings, Severity.failure, Severity.warning)
    passed = worst_first(findings, Severity.ok)
    note = f"{len(findings)} checks before the first step, {len(odd)} with a finding."
    parts = []
    if odd:
        header = ("check", "state", "what was found", "numbers", "why it matters, what to type")
        rows = Table(header, [_finding(f) for f in odd], wide=frozenset({2, 3, 4}))
        parts.append(Panel("", "table", rows))
    if passed:
        rows = Table(
            ("check", "state", "what was found"), [_finding(f)[:3] for f in passed], wide=frozenset({2})
        )
        parts.append(Panel(f"{len(passed)} checks passed", "table", rows, folded=True))
    return Panel("Doctor", "parts", parts, note)


def _finding(finding: Finding) -> tuple[str | Markup, ...]:
    numbers = ", ".join(f"{name} {_shown(value)}" for name, value in finding.numbers.items())
    why = Markup("{} {}").format(finding.why, code(finding.type)) if finding.type else finding.why
    return (
        finding.name,
        state(STATE_WORDS[finding.severity], finding.severity),
        short(finding.what, 400),
        short(numbers, 300),
        why,
    )


def _shown(value: Number) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
