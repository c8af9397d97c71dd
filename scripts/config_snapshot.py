"""Every experiment beside every option: what composes, what the checks say, the first line; for two trees.

    python scripts/config_snapshot.py write before.jsonl      # on one commit
    python scripts/config_snapshot.py compare before.jsonl    # on another: exit code 1 where rows differ

A row is one command line: an experiment (or none) with one option of one group (or none), or two groups'
options without an experiment (--pairs). Two trees with equal rows compose, check and announce alike.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

import rlvis.compose.command as command
import rlvis.compose.describe as describe
from rlvis.checks.config import check
from rlvis.findings import ConfigError
from rlvis.plan.summary import summary


def command_lines(pairs: bool) -> Iterator[list[str]]:
    """Experiments x (nothing and every option); with `pairs` also every two options of different groups."""
    groups = {group: sorted(options) for group, options in describe.table().items()}
    experiments = groups.pop("experiment")
    options = [f"{group}={option}" for group, names in groups.items() for option in names]
    for experiment in [None, *experiments]:
        first = [] if experiment is None else [f"experiment={experiment}"]
        yield first
        for option in options:
            yield [*first, option]
    if pairs:
        for one, other in itertools.combinations(options, 2):
            if one.split("=")[0] != other.split("=")[0]:
                yield [one, other]


def row(words: list[str]) -> dict[str, object]:
    """What one command line comes to; mistakes as their text."""
    try:
        composed = command.compose(words)
        text = OmegaConf.to_yaml(composed.config, resolve=False)
        config = composed.typed()
    except ConfigError as error:
        return {"words": words, "error": str(error)}
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    mistakes = {n: [str(found) for found in check(config, n)] for n in (1, 8)}
    lines = [summary(config, n) for n in (1, 8)]
    return {"words": words, "config": digest, "checks": mistakes[1], "checks_8": mistakes[8], "lines": lines}


def main() -> int:
    """Exit code 0, or 1 where rows differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--pairs", action="store_true", help="also every two options of different groups")
    arguments = parser.parse_args()
    rows = [json.loads(json.dumps(row(words))) for words in command_lines(arguments.pairs)]
    if arguments.action == "write":
        arguments.file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        print(f"{len(rows)} command lines written to {arguments.file}")
        return 0
    before = {tuple(r["words"]): r for r in map(json.loads, arguments.file.read_text("utf-8").splitlines())}
    differ = [r for r in rows if before.get(tuple(r["words"])) != r]
    for r in differ:
        print(f"{' '.join(r['words'])}\n  before {before.get(tuple(r['words']))}\n  now    {r}")
    print(f"{len(rows)} command lines, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
