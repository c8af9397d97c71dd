"""Files of a run that hold a JSON object a line: written strictly, read as a crash may have left them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvis import writing

log = logging.getLogger(__name__)

LAST_STEP = 10**9  # what is above is no training step


def steps(path: Path) -> Iterator[dict[str, Any]]:
    """The objects with a whole-numbered `step`, in the order of the file.

    A file that is not there has none; a line that cannot be read, such as one that was cut off, is left out.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    yield from (row for row in parsed(text) if row is not None)


def parsed(text: str) -> Iterator[dict[str, Any] | None]:
    """The object of each line with its `step` as a whole number; None for a line that cannot be read."""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
            yield row | {"step": step} if 0 <= step <= LAST_STEP else None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            yield None


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add objects to a file, a strict line each; their floats may be anything."""
    text = "".join(
        json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False) + "\n" for row in rows
    )
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def keep_before(path: Path, step: int) -> None:
    """Rewrite metrics.jsonl, or another file with a `step` in each line, without what the resumed run will
    write again: steps >= `step`, and lines that cannot be read, such as one cut off by a crash.
    """
    if not path.exists():
        return
    kept = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, (line, row) in enumerate(zip(text.splitlines(), parsed(text), strict=True), 1):
        if row is None:
            log.warning("%s: line %d cannot be read and was left out (cut off by a crash?)", path, number)
        elif row["step"] < step:
            kept.append(line + "\n")
    writing.text(path, "".join(kept))


def json_number(value: float) -> float | str:
    """The number, or the string that stands for it where JSON has none."""
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")


def plain(value: Any) -> Any:
    """A value as JSON has it: a float as `json_number`, anything else as it is."""
    return json_number(value) if isinstance(value, float) else value
