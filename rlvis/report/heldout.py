"""What evaluations on held-out prompts left in RUN/eval, as curves with intervals and as paired differences.

Differences are taken prompt by prompt, which is possible because two runs draw the same prompt from the same
noise: their interval is much narrower than that of two means.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvis.evaluation import pictures, results, statistics
from rlvis.evaluation.run import REWORDED, TERM, TRAINED
from rlvis.evaluation.suites import HARD, RIGHT, SCORE
from rlvis.observe.history import Series
from rlvis.report import wording
from rlvis.report.plots import Spread

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
VIEWS = (
    (REWORDED, "paraphrased"),
    (TRAINED, "by the sampler of training"),
)  # ways to look at the same prompts
PerPrompt = Mapping[tuple[int, str], float]  # (index, prompt) -> result


@dataclass(frozen=True)
class Change:
    """A prompt's first sample at the first and the last evaluation: from the same noise, what it scored then
    and now, and its pictures.
    """

    prompt: str
    before: float
    after: float
    pictures: tuple[Path, Path]

    @property
    def gain(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Evaluations:
    """The entries of RUN/eval/summary.json by step; problems: sentences about what cannot be read."""

    folder: Path
    entries: list[dict[str, Any]]
    problems: list[str]

    def interval(self, key: str) -> Spread:
        """A metric over steps with Student's 95 % interval over prompts; empty where no entry has it."""
        from scipy import stats

        rows = []
        for entry in self.entries:
            mean, error = entry["mean"].get(key), entry["standard_error"].get(key)
            if mean is not None:
                prompts = int(entry["prompts"].get(key, 0))
                known = error is not None and prompts > 1
                half = float(stats.t.ppf(0.975, prompts - 1)) * error if known else 0.0
                rows.append((entry["step"], mean, mean - half, mean + half))
        steps, middle, low, high = np.array(rows, dtype=np.float64).reshape(-1, 4).T
        return Spread(Series(steps.astype(np.int64), middle), low, high)

    def table(self, step: int) -> pd.DataFrame | None:
        """The samples of an evaluation; None where they cannot be read."""
        import pandas as pd

        try:
            return pd.read_parquet(self.folder / f"step_{step:06d}.parquet")
        except Exception:  # pyarrow raises many kinds for a file that is cut off
            log.warning("the evaluation of step %d in %s cannot be read", step, self.folder)
            return None


def read(run_dir: Path) -> Evaluations:
    """What RUN/eval holds; nothing where it holds nothing."""
    folder = run_dir / "eval"
    try:
        entries = [e for e in results.read(folder) if isinstance(e.get("step"), int) and _whole(e)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Evaluations(folder, [], [f"eval/{results.SUMMARY} cannot be read."])
    return Evaluations(folder, sorted(entries, key=lambda e: int(e["step"])), [])


def measures(table: pd.DataFrame) -> dict[str, str]:
    """Name -> column of what an evaluation measured."""
    columns = {"accuracy": HARD, "score": SCORE} if SCORE in table else {}
    for column in table.columns:
        if column.startswith(RIGHT):
            columns[column.removeprefix(RIGHT) + " right"] = column
        elif column.startswith(TERM):
            columns[column.removeprefix(TERM)] = column
        elif column == results.DIVERSITY:
            columns[column] = column
    views = {
        f"{name}, {words}": f"{view}{column}" for view, words in VIEWS for name, column in columns.items()
    }
    return columns | {name: column for name, column in views.items() if column in table}


def per_prompt(tables: Sequence[pd.DataFrame], column: str) -> dict[tuple[int, str], float]:
    """(index, prompt) -> mean of a column over that prompt's samples, and over tables (seeds)."""
    import pandas as pd

    parts = [t[["index", "prompt", column]].astype({column: float}) for t in tables]
    means = pd.concat(parts).groupby(["index", "prompt"])[column].mean().dropna()
    return {(int(index), str(prompt)): float(value) for (index, prompt), value in means.items()}


def difference(a: Sequence[PerPrompt], b: Sequence[PerPrompt]) -> statistics.Comparison | None:
    """b - a, run by run (of the same seeds) and prompt by prompt, on the prompts that all of them have; None
    where there are none.
    """
    assert len(a) == len(b) > 0, (len(a), len(b))
    shared = [key for key in a[0] if all(key in each for each in (*a, *b))]
    if not shared:
        return None
    before, after = (np.array([[each[key] for each in arm] for key in shared]) for arm in (a, b))
    return statistics.paired(before, after)


def first_and_last(evaluations: Evaluations) -> tuple[int, int, pd.DataFrame, pd.DataFrame] | None:
    """(step, step, samples, samples) of the first and the last evaluation; None where there are not two that
    can be read.
    """
    if len(evaluations.entries) < 2:
        return None
    first, last = evaluations.entries[0]["step"], evaluations.entries[-1]["step"]
    before, after = evaluations.table(first), evaluations.table(last)
    return None if before is None or after is None else (first, last, before, after)


def outcome(run_dir: Path) -> str:
    """What training did to the first measure of its held-out prompts, in a line: "held-out accuracy 0.5 ->
    0.77 (+0.271, 95 % +0.188 .. +0.354, 48 prompts)"; empty where no two evaluations can be compared.
    """
    pair = first_and_last(read(run_dir))
    named = pair and next(iter(measures(pair[2]).items()), None)
    if not pair or not named or named[1] not in pair[3]:
        return ""
    old, new = (per_prompt([table], named[1]) for table in pair[2:])
    compared = difference([old], [new])
    if compared is None:
        return ""
    means = " -> ".join(f"{np.mean(list(part.values())):.3g}" for part in (old, new))
    return f"held-out {named[0]} {means} ({wording.change(compared)})"


def changes(evaluations: Evaluations) -> list[Change]:
    """The prompts whose first sample has a picture at the first and the last evaluation, the largest gain of
    the score (or the first scorer) first.
    """
    pair = first_and_last(evaluations)
    if pair is None:
        return []
    first, last, *tables = pair
    column = SCORE if SCORE in tables[0] else next(iter(measures(tables[0]).values()), None)
    if column is None or column not in tables[1]:
        return []
    shown = [pictures.kept(evaluations.folder, step) for step in (first, last)]
    scores = [per_prompt([table[table["sample"] == 0]], column) for table in tables]
    both = [
        Change(prompt, before, scores[1][index, prompt], (shown[0][index], shown[1][index]))
        for (index, prompt), before in scores[0].items()
        if (index, prompt) in scores[1] and index in shown[0] and index in shown[1]
    ]
    return sorted(both, key=lambda change: -change.gain)


def _whole(entry: Mapping[str, Any]) -> bool:
    return all(isinstance(entry.get(key), dict) for key in ("mean", "standard_error", "prompts"))
