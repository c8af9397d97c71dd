"""`rlvis autopsy RUN_DIR`: why a run crashed, collapsed or learned nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rlvis.cli.exit_codes import FAILED, OK, WRONG
from rlvis.findings import ConfigError, mistake

HELP = """\
usage: rlvis autopsy RUN_DIR [--json]

Says in which state a run is (finished, crashed, killed, interrupted, still running), at which step it first
went wrong, which reward term, prompt, transition or layer moved first, what it shows that a healthy run does
not, the likely causes with their evidence, and what to type. It reads the folder and runs nothing.

  --json       the same as JSON
  -h, --help   this text

Exit codes: 0 it could look (whatever it found), 1 the folder holds nothing of a run, 2 there is no such
folder.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis autopsy RUN_DIR [--json]`."""
    if "-h" in words or "--help" in words:
        print(HELP, end="")
        return OK
    folders = [word for word in words if word != "--json"]
    if len(folders) != 1 or folders[0].startswith("-"):
        print(HELP, end="")
        return WRONG
    path = Path(folders[0]).expanduser()
    if not path.is_dir():
        raise ConfigError(mistake(f"autopsy: {path} is not a folder", "rlvis autopsy outputs/NAME/DATE_TIME"))
    from rlvis.report import autopsy

    evidence = autopsy.examine(path)
    if evidence is None:
        print(f"{path} holds nothing of a run: no config.yaml, metrics.jsonl, dump or exit.json")
        return FAILED
    print(json.dumps(autopsy.to_json(evidence), indent=1) if "--json" in words else autopsy.to_text(evidence))
    return OK
