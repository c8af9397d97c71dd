"""RUN/alarms.jsonl: one line an alarm of the sentinels, with what was done about it.

    {"step": 25, "statistic": "edge_density", "value": 0.01, "usual": 0.11, "deviation": -25.0, "since": 23,
     "threshold": 6.0, "what": "edge density is ...", "why": "fewer edges: ...", "action": "warn",
     "done": "nothing", "type": "..."}

step and since count from 1, as in metrics.jsonl. Strict JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlvis.observe import lines
from rlvis.observe.sentinels import Alarm
from rlvis.observe.trackers import json_number, keep_before

NAME = "alarms.jsonl"


def append(run_dir: Path, alarms: Sequence[Alarm], action: str, done: str, type: str) -> None:
    """Add the alarms of a step. action: of the configuration; done, type: sentences."""
    with (Path(run_dir) / NAME).open("a", encoding="utf-8") as file:
        for alarm in alarms:
            told = {k: json_number(v) if isinstance(v, float) else v for k, v in asdict(alarm).items()}
            line = {**told, "action": action, "done": done, "type": type}
            file.write(json.dumps(line, allow_nan=False) + "\n")


def resume(run_dir: Path, step: int) -> None:
    """Drop the lines from `step` on, the first step to come, and what cannot be read."""
    keep_before(Path(run_dir) / NAME, step)


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines by step; what cannot be read is left out."""
    found = [row for row in lines.steps(Path(run_dir) / NAME) if "statistic" in row]
    return sorted(found, key=lambda row: row["step"])
