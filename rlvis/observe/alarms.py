"""RUN/alarms.jsonl: one line an alarm of the sentinels, with what was done about it.

    {"step": 25, "statistic": "edge_density", "value": 0.01, "usual": 0.11, "deviation": -25.0, "since": 23,
     "threshold": 6.0, "what": "edge density is ...", "why": "fewer edges: ...", "action": "warn",
     "done": "nothing", "type": "..."}

step and since count from 1, as in metrics.jsonl. Strict JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvis.findings import Finding
from rlvis.observe import lines

NAME = "alarms.jsonl"


def append(run_dir: Path, alarms: Sequence[Finding], action: str, done: str, type: str) -> None:
    """Add the alarms of a step, as the sentinels judged them. action: of the configuration; done, type:
    sentences.
    """
    after = {"action": action, "done": done, "type": type}
    rows = [
        {"step": alarm.step, "statistic": alarm.name, **alarm.numbers, "what": alarm.what, "why": alarm.why}
        for alarm in alarms
    ]
    lines.append(Path(run_dir) / NAME, [row | after for row in rows])


def resume(run_dir: Path, step: int) -> None:
    """Drop the lines from `step` on, the first step to come, and what cannot be read."""
    lines.keep_before(Path(run_dir) / NAME, step)


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines by step; what cannot be read is left out."""
    rows = [row for row in lines.steps(Path(run_dir) / NAME) if "statistic" in row]
    return sorted(rows, key=lambda row: row["step"])
