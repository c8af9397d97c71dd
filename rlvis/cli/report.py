"""`rlvis report RUN_DIR`: the page of a run, written anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlvis.cli.ending import OK, WRONG
from rlvis.training.checks import ConfigError


def run(words: Sequence[str]) -> int:
    """`rlvis report RUN_DIR`."""
    if len(words) != 1 or words[0].startswith("-"):
        print("usage: rlvis report RUN_DIR   writes RUN_DIR/report.html anew")
        return OK if "-h" in words or "--help" in words else WRONG
    if not Path(words[0]).is_dir():
        raise ConfigError(f"report: {words[0]} is not a folder; type rlvis report outputs/NAME/DATE_TIME")
    from rlvis.report import html

    print(html.write(Path(words[0])))
    return OK
