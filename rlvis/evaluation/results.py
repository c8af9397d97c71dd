"""What an evaluation leaves behind: a table of samples, its summary, metrics, and a text for the terminal.

    FOLDER/step_000060.parquet   a row for each sample: step, prompt, kind, index, sample, then every number
    FOLDER/summary.json          for each step: means, standard errors, counts, settings, weights, commit

Both are written aside and renamed; summary.json is read and written under a lock, so that a run and somebody
who evaluates one of its checkpoints do not lose each other's entries.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rlvis import writing
from rlvis.evaluation import diversity
from rlvis.evaluation.prompts import OTHER, HeldOut
from rlvis.evaluation.run import REWORDED, TERM, TRAINED
from rlvis.evaluation.statistics import FORMULA, Estimate, cluster_mean, interval
from rlvis.evaluation.suites import HARD, RIGHT, SCORE
from rlvis.findings import write_json

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "summary.json"
DIVERSITY, MACRO = "diversity", "macro"


def frame(held: HeldOut, columns: Mapping[str, Tensor], step: int) -> pd.DataFrame:
    """The table of one evaluation: one row a sample, in the order (prompt, sample).

    columns: of `evaluate`. hard becomes true or false, looks become the diversity of the prompt's samples;
    index is the position among the held-out prompts.
    """
    import pandas as pd

    per, batch = held.settings.samples, held.batch
    total = batch.rows * per
    prompt = np.arange(total) // per
    table: dict[str, Any] = {
        "step": np.full(total, step),
        "prompt": [batch.texts[p] for p in prompt],
        "kind": [held.kinds[p] for p in prompt],
        "index": batch.index.numpy()[prompt],
        "sample": np.arange(total) % per,
    }
    for name, column in columns.items():
        if not name.startswith(diversity.LOOK):
            table[name] = column.numpy() > 0 if name == HARD else column.numpy()
    if per > 1 and any(name.startswith(diversity.LOOK) for name in columns):
        table[DIVERSITY] = diversity.of_prompts(columns, per)
    return pd.DataFrame(table)


def estimates(table: pd.DataFrame) -> dict[str, Estimate]:
    """Metric -> its mean and standard error over prompts: eval/score, eval/accuracy, eval/accuracy/KIND,
    eval/right/ATTRIBUTE, eval/TERM, eval/TERM/KIND with their mean eval/TERM/macro, eval/diversity; of the
    other views eval/VIEW/MEASURE, and what the view changes, sample by sample, as eval/VIEW/MEASURE_change.
    One that has no value is left out.
    """
    prompt = table["index"].to_numpy()
    means: dict[str, Estimate] = {}

    def values(column: str) -> np.ndarray:
        known: np.ndarray = table[column].to_numpy(dtype=np.float64)
        return known

    def add(key: str, known: np.ndarray, rows: np.ndarray | slice = slice(None)) -> None:
        estimate = cluster_mean(known[rows], prompt[rows])
        if estimate.samples:
            means[f"eval/{key}"] = estimate

    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind != OTHER]
    if SCORE in table:
        add("score", values(SCORE))
        add("accuracy", values(HARD))
        for kind in kinds:
            add(f"accuracy/{kind}", values(HARD), (table["kind"] == kind).to_numpy())
    for column in table.columns:
        if column.startswith(RIGHT) or column == DIVERSITY:
            add(column, values(column))
        elif column.startswith(TERM):
            add(column.removeprefix(TERM), values(column))
            for kind in kinds:
                add(f"{column.removeprefix(TERM)}/{kind}", values(column), (table["kind"] == kind).to_numpy())
            if sum(f"eval/{column.removeprefix(TERM)}/{kind}" in means for kind in kinds) > 1:
                name = f"eval/{column.removeprefix(TERM)}"
                means[f"{name}/{MACRO}"] = macro(
                    [means[f"{name}/{kind}"] for kind in kinds if f"{name}/{kind}" in means]
                )
    for view in (REWORDED, TRAINED):
        for name, column in measures(table).items():
            if f"{view}{column}" in table:
                add(f"{view}{name}", values(f"{view}{column}"))
                add(f"{view}{name}_change", values(f"{view}{column}") - values(column))
    return means


def macro(parts: Sequence[Estimate]) -> Estimate:
    """The mean of the means of kinds, each counting the same, as GenEval's overall score."""
    mean = sum(part.mean for part in parts) / len(parts)
    error = math.sqrt(sum(part.error**2 for part in parts)) / len(parts)
    return Estimate(mean, error, sum(part.samples for part in parts), sum(part.clusters for part in parts))


def measures(table: pd.DataFrame) -> dict[str, str]:
    """Name -> column of what an evaluation measures: the suite's accuracy and score, every scorer."""
    columns = {"accuracy": HARD, "score": SCORE} if SCORE in table else {}
    return columns | {c.removeprefix(TERM): c for c in table.columns if c.startswith(TERM)}


def metrics(means: Mapping[str, Estimate]) -> dict[str, float]:
    """The means alone, for the trackers."""
    return {key: estimate.mean for key, estimate in means.items()}


def write(folder: Path, table: pd.DataFrame, step: int, context: Mapping[str, Any]) -> Path:
    """Write the table and its entry of summary.json; a step that is there already is replaced.

    context: JSON values that stand beside the numbers (settings, weights, git, ...). Returns the table's
    path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:06d}.parquet"
    with writing.aside(path) as part:
        table.to_parquet(part, index=False)
    means = estimates(table)
    entry = {
        "step": step,
        "mean": {key: estimate.mean for key, estimate in means.items()},
        "standard_error": {key: _number(estimate.error) for key, estimate in means.items()},
        "samples": {key: estimate.samples for key, estimate in means.items()},
        "prompts": {key: estimate.clusters for key, estimate in means.items()},
        **context,
    }
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = [e for e in read(folder) if e["step"] != step]
        whole = {
            "standard_error": FORMULA,
            "evaluations": sorted([*entries, entry], key=lambda e: int(e["step"])),
        }
        write_json(folder / SUMMARY, whole)
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries of FOLDER/summary.json by step; none where there is no such file."""
    path = folder / SUMMARY
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
    return entries


def clash(folder: Path, step: int, settings: Mapping[str, Any]) -> str | None:
    """What differs between `settings` and those of the entry of that step, if there is one: "steps was 28 and
    is now 10"; None where nothing would be lost.
    """
    for entry in read(folder):
        if entry["step"] == step:
            before = entry["settings"]
            odd = [k for k in sorted({*before, *settings}) if before.get(k) != settings.get(k)]
            changes = [f"{k} was {_shown(before.get(k))} and is now {_shown(settings.get(k))}" for k in odd]
            return "; ".join(changes) or None
    return None


def line(means: Mapping[str, Estimate], seconds: float) -> str:
    """One line for the log: "accuracy 0.31 +- 0.05, score 0.52 +- 0.03 (48 prompts x 1 samples, 4.2 s)"."""
    names = [key for key in means if key.count("/") == 1]
    error = {key: f" +- {means[key].error:.2g}" if means[key].error > 0 else "" for key in names}
    parts = [f"{key.removeprefix('eval/')} {means[key].mean:.4g}{error[key]}" for key in names]
    most = max(means.values(), key=lambda e: e.samples, default=Estimate(math.nan, math.nan, 0, 0))
    return f"{', '.join(parts)} ({most.samples} samples of {most.clusters} prompts, {seconds:.1f} s)"


def listing(table: pd.DataFrame) -> str:
    """Kinds of prompts by measures, each with its 95 % interval (over prompts), as text."""
    shown = measures(table)
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind != OTHER]
    rows = [["prompts of kind", "prompts", "samples", *(w for name in shown for w in (name, "95 %"))]]
    for kind in ["all", *kinds]:
        part = table if kind == "all" else table[table["kind"] == kind]
        row = [kind, str(part["index"].nunique()), str(len(part))]
        for column in shown.values():
            values, prompt = part[column].to_numpy(dtype=np.float64), part["index"].to_numpy()
            low, high = interval(values, prompt)
            row += [_cell(cluster_mean(values, prompt).mean), _range(low, high)]
        rows.append(row)
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    width = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, width, strict=True))
        )
        for row in rows
    )


def _range(low: float, high: float) -> str:
    """A dash where there are too few prompts for an interval, or all are equal."""
    return "-" if math.isnan(low) else f"{_cell(low)} .. {_cell(high)}"


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: Any) -> str:
    return json.dumps(value)
