"""The panels of a report, one function each: from a run folder to plain values that a template of the same
kind shows.

A panel that lacks its data says so in `note` instead of being left out; one about a method that the run did
not use is None. To add one: write a function, name it
in PANELS, and use a kind that exists (figures, table, samples, text, parts) or add templates/KIND.html.j2.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from rlvis.observe import metrics
from rlvis.observe.trust_table import NAME as TRUST_FILE
from rlvis.report import groups, pictures, plots
from rlvis.report.folder import RunFolder, Series

LISTED = 5  # prompts at either end of the trust table
CUT = 72  # characters of a prompt in a table
STAGES = ("rollout", "score", "weigh", "build", "update")


@dataclass(frozen=True)
class Panel:
    """A section of the page. kind: the template; data: what it shows; note: a sentence, mostly about what is
    missing.
    """

    title: str
    kind: str
    data: Any = None
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption; an empty svg is shown as `empty`."""

    title: str
    svg: Markup
    caption: str
    empty: str = "Not in metrics.jsonl."


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of a row names it."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Verdict:
    """The first lines: one sentence and a few numbers, facts only."""

    sentence: str
    tiles: list[tuple[str, str]] = field(default_factory=list)


def verdict(run: RunFolder) -> Panel:
    """Reward over the first and last tenth of the steps, and the counts that a reader checks first."""
    reward = run.series("reward/mean").finite
    if not len(reward):
        return Panel("", "verdict", Verdict("No reward was written, so nothing can be said about it."))
    if len(reward) == 1:
        sentence = f"Reward {reward.value[0]:.4g} at step {reward.step[0]}, the only step."
    else:
        n = max(1, round(0.1 * len(reward)))
        first, last = float(reward.value[:n].mean()), float(reward.value[-n:].mean())
        over = (
            f"means over the first and last {n} of {len(reward)} steps"
            if n > 1
            else f"first and last of {len(reward)} steps"
        )
        sentence = f"Reward {first:.4g} -> {last:.4g} ({last - first:+.3g}; {over})."
    return Panel("", "verdict", Verdict(sentence, _tiles(run)))


def curves(run: RunFolder) -> Panel:
    """Reward, ratio, clipping, gradient norm and time per stage over training steps."""
    drawings = [_reward(run), _ratio(run), _clip(run), _grad_norm(run), _time(run)]
    note = "" if run.rows else "No training step was written, so there are no curves."
    return Panel("Curves", "figures", drawings, note)


def trust(run: RunFolder) -> Panel | None:
    """The spread of group weights over steps, and the prompts at both ends; None for a run without trust."""
    path = run.path / TRUST_FILE
    if not path.is_file():
        return None
    found, lost = groups.read(path)
    note = f"Lines of {TRUST_FILE} that cannot be read and were left out: {lost}." if lost else ""
    parts = [Panel("", "figures", [_weights(run), _effective(run)])]
    split = min(LISTED, (len(found) + 1) // 2)
    most, least = found[:split], found[max(split, len(found) - LISTED) :]
    for title, chosen in (("Most trusted prompts", most), ("Least trusted prompts", least[::-1])):
        if chosen:
            parts.append(Panel(title, "table", _trusted(chosen)))
    if found:
        parts[-1] = replace(parts[-1], note="Means over all groups of a prompt so far; rewards are raw.")
    return Panel("Trust", "parts", parts, note if found else f"No group in {TRUST_FILE} was scored. {note}")


def evaluation(run: RunFolder) -> Panel | None:
    """Held-out accuracy and scores over training; None for a run without evaluation."""
    keys = [key for key in run.keys if key.startswith("eval/")]
    if not keys:
        return None
    drawings = []
    if "eval/accuracy" in keys:
        kinds = _below(keys, "eval/accuracy/")
        drawings.append(
            _held_out(
                run,
                "Held-out accuracy",
                {"all": "eval/accuracy", **kinds},
                "share right",
                "Everything asked is right.",
            )
        )
        right = _below(keys, "eval/right/")
        caption = "Each attribute, over the prompts that ask for it."
        drawings.append(_held_out(run, "Held-out attributes", right, "share right", caption))
    if "eval/score" in keys:
        drawings.append(
            _held_out(run, "Held-out score", {"score": "eval/score"}, "score", "Mean degree, in [0, 1].")
        )
    for name, key in _below(keys, "eval/").items():
        if name not in ("score", "accuracy") and "/" not in name:
            drawings.append(
                _held_out(run, f"Held-out {name}", {name: key}, name, "An extra scorer of eval.terms.")
            )
    note = "Prompts that are not trained on, from fixed noise; errors and single samples are in eval/."
    return Panel("Evaluation", "figures", drawings, note)


def samples(run: RunFolder) -> Panel:
    """Sheets of the same prompts and the same noise over the run, first beside last, with a slider."""
    shown, problems = pictures.embed(run.samples)
    note = " ".join(problems)
    if not run.samples:
        note = "No sample sheets were written (tracker.samples_every=0, or the run ended before the first)."
    elif len(shown) < len(run.samples) and not problems:
        note = f"{len(shown)} of {len(run.samples)} sheets are shown; all are in samples/ of the run folder."
    return Panel("Samples", "samples", shown, note)


def configuration(run: RunFolder) -> Panel:
    """The resolved configuration as it was written."""
    note = "" if run.config_text else "config.yaml is missing."
    return Panel("Configuration", "text", run.config_text, note, folded=True)


def reproduce(run: RunFolder) -> Panel:
    """The command of the run and the commit it ran at."""
    command = run.manifest.get("command")
    if not command:
        return Panel("Reproduce", "text", "", "The manifest names no command.")
    lines = [command if isinstance(command, str) else shlex.join(str(part) for part in command)]
    git = run.manifest.get("git")
    git = git if isinstance(git, Mapping) else {}
    commit = git.get("commit")
    if commit:
        lines.insert(0, f"git checkout {shlex.quote(str(commit))}")
    note = "The working tree had changes that are not in this commit." if git.get("dirty") else ""
    return Panel("Reproduce", "text", "\n".join(lines), note)


def manifest(run: RunFolder) -> Panel:
    """Everything the manifest says, flattened to rows."""
    note = "" if run.manifest else "manifest.json is missing or unreadable."
    rows = flatten(run.manifest)
    return Panel("Manifest", "table", Table(("field", "value"), rows) if rows else None, note, folded=True)


def last_values(run: RunFolder) -> Panel:
    """Every metric's first and last value, with its meaning and healthy range."""
    rows: list[tuple[str, ...]] = []
    for key in run.keys:
        values = run.series(key)
        if len(values):
            row = metrics.find(key) or metrics.Key("", "", "")
            rows.append(
                (key, f"{values.value[0]:.5g}", f"{values.value[-1]:.5g}", row.unit, row.meaning, row.healthy)
            )
    note = "" if rows else "No metrics were written."
    header = ("metric", "first", "last", "unit", "meaning", "healthy")
    return Panel("All metrics", "table", Table(header, rows) if rows else None, note, folded=True)


PANELS: tuple[Callable[[RunFolder], Panel | None], ...] = (
    verdict,
    curves,
    evaluation,
    trust,
    samples,
    reproduce,
    last_values,
    configuration,
    manifest,
)


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) rows; other values as JSON or text."""
    if isinstance(tree, Mapping):
        return [
            row
            for key, value in tree.items()
            for row in flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, tree if isinstance(tree, str) else json.dumps(tree, default=str))]


def _tiles(run: RunFolder) -> list[tuple[str, str]]:
    """Name and value of the facts that metrics.jsonl has."""
    tiles = [("training steps", f"{sum(row['step'] > 0 for row in run.rows)}")]  # step 0 is before the first

    def add(name: str, key: str, fold: Callable[[Series], float], form: str) -> None:
        values = run.series(key)
        if len(values):
            tiles.append((name, format(fold(values), form)))

    add(
        "max |ratio - 1| before the first update of a step",
        "ratio/max_deviation_first",
        lambda s: s.value.max(),
        ".2g",
    )
    add("max |ratio - 1|", "ratio/max_deviation", lambda s: s.value.max(), ".2g")
    add("samples masked as invalid", "reward/invalid_count", lambda s: s.value.sum(), ".0f")
    add("groups without a signal, mean", "group/zero_variance_fraction", lambda s: s.value.mean(), ".1%")
    add("seconds a step, median", "time/step", lambda s: float(sorted(s.value)[len(s) // 2]), ".3g")
    add("time in steps, minutes", "time/step", lambda s: s.value.sum() / 60, ".3g")
    if run.series("memory/max_gib").value.any():  # 0 on a CPU
        add("largest memory, GiB", "memory/max_gib", lambda s: s.value.max(), ".3g")
    return tiles


def _reward(run: RunFolder) -> Drawing:
    names = [
        k.split("/")[1]
        for k in run.keys
        if k.startswith("reward/") and k.count("/") == 2 and k.endswith("/mean")
    ]
    terms = {name: run.series(f"reward/{name}/mean") for name in names} if len(names) > 1 else {}
    svg = plots.band("reward", run.series("reward/mean"), run.series("reward/std"), terms, ylabel="reward")
    extra = "The weighted sum, and each raw term (thin)." if terms else ""
    return Drawing(
        "Reward",
        Markup(svg),
        f"Mean over the valid samples of a step; band: +- std over samples. {extra}".strip(),
    )


def _ratio(run: RunFolder) -> Drawing:
    keys = {"all updates": "ratio/max_deviation", "before the first update": "ratio/max_deviation_first"}
    svg = plots.lines("ratio", _series(run, keys), ylabel="max |ratio - 1|", log=True)
    first = run.series("ratio/max_deviation_first")
    exact = " It was exactly 0 in every step." if len(first) and not first.value.any() else ""
    caption = (
        "Before the first update of a step the policy has not moved, so the deviation must be 0." + exact
    )
    return Drawing("Ratio", Markup(svg), caption)


def _clip(run: RunFolder) -> Drawing:
    keys = {"above 1 + clip": "clip/fraction_high", "below 1 - clip": "clip/fraction_low"}
    svg = plots.lines("clip", _series(run, keys), ylabel="share of ratios")
    return Drawing("Clipped ratios", Markup(svg), "Share of ratios outside the clip range.")


def _grad_norm(run: RunFolder) -> Drawing:
    norm = run.series("update/grad_norm")
    svg = plots.lines("grad-norm", {"gradient norm": norm}, ylabel="gradient norm", log=_spans(norm, 100))
    lost = len(norm) - len(norm.finite)
    broken = f" Steps left out because it was not finite: {lost}." if lost else ""
    return Drawing("Gradient norm", Markup(svg), f"Global norm before clipping.{broken}")


def _time(run: RunFolder) -> Drawing:
    svg = plots.stacked(
        "time", _series(run, {stage: f"time/{stage}" for stage in STAGES}), ylabel="seconds a step"
    )
    return Drawing("Time per stage", Markup(svg), "Wall time of the five stages of a step.")


def _weights(run: RunFolder) -> Drawing:
    keys = {name: f"trust/weight_{name}" for name in ("max", "mean", "min")}
    svg = plots.lines("trust-weight", _series(run, keys), ylabel="weight of a group")
    return Drawing("Group weights", Markup(svg), "A group's weight multiplies the advantages of its samples.")


def _effective(run: RunFolder) -> Drawing:
    size = {"effective groups": run.series("trust/effective_groups")}
    svg = plots.lines("trust-groups", size, ylabel="effective groups")
    caption = "(sum w)^2 / (sum w^2): how many groups carry the update. Equal weights give all of them."
    return Drawing("Effective groups", Markup(svg), caption)


def _held_out(run: RunFolder, title: str, keys: Mapping[str, str], ylabel: str, caption: str) -> Drawing:
    name = re.sub(r"\W+", "-", title.lower())
    return Drawing(title, Markup(plots.lines(name, _series(run, keys), ylabel=ylabel)), caption)


def _trusted(chosen: Sequence[groups.Trusted]) -> Table:
    rows = [
        (
            t.text if len(t.text) <= CUT else t.text[: CUT - 3] + "...",
            t.objective,
            f"{t.weight:.4g}",
            f"{t.mean:.4g}",
            f"{t.prior:.4g}",
            str(t.groups),
        )
        for t in chosen
    ]
    return Table(("prompt", "objective", "weight", "group mean", "prior mean", "groups"), rows)


def _series(run: RunFolder, keys: Mapping[str, str]) -> dict[str, Series]:
    return {label: run.series(key) for label, key in keys.items()}


def _below(keys: Sequence[str], prefix: str) -> dict[str, str]:
    """Those keys that begin with prefix, by what follows it."""
    return {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}


def _spans(series: Series, factor: float) -> bool:
    known = series.finite.value
    return bool(len(known)) and known.min() > 0 and bool(known.max() > factor * known.min())
