"""`rlvis list [GROUP ...]`: config groups and their options; of a named one, all keys as well."""

from __future__ import annotations

from collections.abc import Sequence

from rlvis.cli.arguments import require_known
from rlvis.cli.exit_codes import OK

HELP = """\
usage: rlvis list [GROUP ...]

  rlvis list           config groups and their options; * is the default
  rlvis list model     one group, and all of its keys: default, values, when each is read
  rlvis list train     a section without options: optim, train, sentinels, run
"""


def run(words: Sequence[str]) -> int:
    """`rlvis list [GROUP ...]`."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP, end="")
    else:
        show(words)
    return OK


def show(groups: Sequence[str]) -> None:
    """Print the named groups with their keys, or all groups. Raises ConfigError for a group that is none."""
    from rlvis.compose import describe

    known = list(dict.fromkeys([*describe.table(), *describe.sections()]))
    for group in groups:
        require_known(group, known, "config group")
    if not groups:
        print(describe.listing())
    for group in groups:
        parts = [describe.listing([group]), describe.keys(group) if group in describe.sections() else ""]
        print("\n\n".join(part for part in parts if part))
