"""What the benchmarks write alike: a result as JSON, and a page of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def arguments(module: str, description: str | None, repeats: int, argv: Sequence[str] | None) -> Any:
    """The command line of a timed benchmark: --repeats and --out. description: its docstring."""
    first = (description or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=first)
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(argv)


def write(folder: Path, name: str, result: Mapping[str, Any], page: str) -> Path:
    """NAME.json and NAME.md; their path without the ending."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    return path


def machine(about: Mapping[str, Any]) -> str:
    """The hardware of an environment (environment.describe) in one line."""
    threads = ", ".join(f"{k} {v}" for k, v in about["threads"].items())
    return f"{about['device']}, {about['cpu_cores']} cores; threads: {threads}"


def software(about: Mapping[str, Any]) -> str:
    """Its precision and versions in one line."""
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    return f"{about['precision']}; Python {about['python']}; {versions}"


def row(*cells: object) -> str:
    """A row of a markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def ratio_row(name: str, ratio: Mapping[str, float], *more: str) -> str:
    """A row with a ratio of `timing.ratio`: median, range, wall time."""
    values = f"{ratio['median']:.3f}", f"{ratio['min']:.3f} .. {ratio['max']:.3f}", f"{ratio['wall']:.3f}"
    return row(name, *values, *more)
