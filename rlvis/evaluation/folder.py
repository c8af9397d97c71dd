"""Scores of pictures and clips in a folder: batches of equal sizes, and a table of what every scorer said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvis import writing
from rlvis.data.media_files import Sample
from rlvis.reward import stage
from rlvis.reward.contract import Term

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 8  # batches of files that wait for others of their size
RETRIES = 2  # of a scorer call that raised


@dataclass
class Columns:
    """Scores by file: value, noise_var, noise_dof, each of R numbers; files without an entry have none."""

    rows: dict[int, tuple[list[float], list[float], list[float]]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)


def batches(
    files: Iterable[tuple[int, Tensor]], samples: Sequence[Sample], size: int
) -> Iterator[list[tuple[int, Tensor]]]:
    """Files of equal sizes together, at least `size` of them where there are as many, in their order.

    Neighbours of one prompt that is not empty stay together, for judges that compare them.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for i, media in files:
        same = waiting.setdefault(tuple(media.shape), [])
        if len(same) >= size and not _together(samples[i], samples[same[-1][0]]):
            yield same
            waiting[tuple(media.shape)] = same = []
        same.append((i, media))
        if sum(map(len, waiting.values())) > LIMIT * size:  # many sizes: memory comes before full batches
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from (batch for batch in waiting.values() if batch)


def _together(a: Sample, b: Sample) -> bool:
    return bool(a.prompt) and (a.prompt, a.metadata) == (b.prompt, b.metadata)


def judge(
    batch: Sequence[tuple[int, Tensor]], samples: Sequence[Sample], terms: Sequence[Term], columns: Columns
) -> None:
    """Score files of equal size, each given with its position in `samples`, into `columns`."""
    rows = [i for i, _ in batch]
    texts, metadata = [samples[i].prompt for i in rows], [samples[i].metadata for i in rows]
    scores = stage.score(terms, texts, metadata, torch.stack([media for _, media in batch]), RETRIES)
    nan = torch.full_like(scores.value, math.nan)
    noise = (nan if part is None else part for part in (scores.noise_var, scores.noise_dof))
    parts = [part.tolist() for part in (scores.value, *noise)]
    columns.rows |= {i: (value, var, dof) for i, value, var, dof in zip(rows, *parts, strict=True)}
    columns.failures.update(scores.failures)


def table_of(samples: Sequence[Sample], names: Sequence[str], columns: Columns) -> pd.DataFrame:
    """A row for each file: file, prompt, a column for each term, valid, and NAME_noise_var, NAME_noise_dof
    where that was stated; NaN where nothing is known.
    """
    import pandas as pd

    none = ([math.nan] * len(names),) * 3
    rows = [columns.rows.get(i, none) for i in range(len(samples))]
    table: dict[str, Any] = {
        "file": [sample.name for sample in samples],
        "prompt": [sample.prompt for sample in samples],
    }
    for r, name in enumerate(names):
        table[name] = [value[r] for value, _, _ in rows]
    table["valid"] = [all(map(math.isfinite, value)) for value, _, _ in rows]
    for r, name in enumerate(names):
        for part, kind in ((1, "noise_var"), (2, "noise_dof")):
            column = [row[part][r] for row in rows]
            if any(map(math.isfinite, column)):
                table[f"{name}_{kind}"] = column
    return pd.DataFrame(table)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table aside, and put it in its place."""
    with writing.aside(path) as part:
        if path.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)
