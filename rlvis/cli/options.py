"""`rlvis list [GROUP ...]`: config groups and their options."""

from __future__ import annotations

from collections.abc import Sequence

from rlvis.cli.arguments import require_known
from rlvis.cli.exit_codes import OK


def run(words: Sequence[str]) -> int:
    """`rlvis list [GROUP ...]`."""
    from rlvis.compose.describe import listing, table

    if any(word in ("-h", "--help") for word in words):
        print("usage: rlvis list [GROUP ...]   config groups and their options; * is the default")
        return OK
    for word in words:
        require_known(word, list(table()), "config group")
    print(listing(list(words)))
    return OK
