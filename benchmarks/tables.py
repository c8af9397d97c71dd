"""The result as tables: markdown for the file, the same rows through rich on a terminal."""

from __future__ import annotations

import importlib.util
from typing import Any

from benchmarks import pages

Table = tuple[str, list[str], list[list[str]]]  # title, heads, rows


def tables(result: dict[str, Any]) -> list[Table]:
    """Titles, heads and rows, all text."""
    titled: list[Table] = []
    for case in result["cases"]:
        shape = case["shape"]
        title = (
            f"{case['name']}, {shape['rows']} rows in batches of {shape['micro_batch']} ({case['policy']}; "
            f"{case['weights']}; {shape['steps']} sampling steps, {shape['updates']} optimizer steps, "
            f"{shape['repeats']} rounds)"
        )
        rows = [
            [
                f"{r['above']} / {r['below']}",
                f"{r['median']:.3f}",
                f"{r['min']:.3f} .. {r['max']:.3f}",
                f"{r['wall']:.3f}",
                f"{case['seconds'][r['above']]:.3f}",
            ]
            for r in case["ratios"]
        ]
        titled.append((title, ["ratio", "median", "range", "wall time", "seconds"], rows))
    growth = result["growth"]
    titled.append(
        (
            f"Whole steps as groups grow ({growth['name']}, {growth['shape']['prompts']} prompts, batches of "
            f"{growth['shape']['micro_batch']})",
            ["samples a prompt", "seconds a sample", "range", "over the smallest"],
            [
                [
                    str(g["samples"]),
                    f"{g['seconds_per_sample']['median']:.4f}",
                    f"{g['seconds_per_sample']['min']:.4f} .. {g['seconds_per_sample']['max']:.4f}",
                    f"{g['over_first']['median']:.3f}",
                ]
                for g in growth["groups"]
            ],
        )
    )
    cases = result["cases"]
    heads = [
        "part",
        *(f"{c['name']}, {c['shape']['rows']} rows by {c['shape']['micro_batch']}" for c in cases),
    ]
    parts = [[part, *(_size(c["bytes"][part]) for c in cases)] for part in cases[0]["bytes"]]
    titled.append(("Tensor bytes of one step", heads, parts))
    return titled


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page."""
    about = result["environment"]
    lines = [
        f"# Overhead on {about['device_type']}",
        "",
        "Made by `python -m benchmarks.overhead`; do not edit. How to read it: benchmarks/README.md.",
        "",
        f"- {pages.machine(about)}; clock: {about['clock']}",
        f"- {pages.software(about)}",
        f"- commit {about['commit']}; {result['seconds_in_all']:.0f} s in all",
    ]
    for title, heads, rows in tables(result):
        lines += ["", f"## {title}", "", pages.row(*heads), pages.row(*["---"] * len(heads))]
        lines += [pages.row(*row) for row in rows]
    return "\n".join(lines) + "\n"


def show(result: dict[str, Any]) -> None:
    """Print the tables; as markdown where rich is not installed (a GPU machine with little else)."""
    if importlib.util.find_spec("rich") is None:
        print(markdown(result))
        return
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    for title, heads, rows in tables(result):
        table = RichTable(title=title, title_justify="left")
        for i, head in enumerate(heads):
            table.add_column(head, justify="right" if i else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
