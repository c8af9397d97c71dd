"""Reading files of a run that hold a JSON object a line, as a crash may have left them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def steps(path: Path) -> Iterator[dict[str, Any]]:
    """The objects with a whole-numbered `step`, in the order of the file.

    A file that is not there has none; a line that cannot be read, such as one that was cut off, is left out.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
            yield row | {"step": int(row["step"])}
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
