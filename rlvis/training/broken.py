"""A broken step in RUN/dump/step_NNNNNN/broken.json: which samples, transitions and layers were not finite.

    {"step": 3, "stage": "update", "what": "the loss ...", "optimizer_step": 0, "rows": [{"prompt": 17,
     "sample": 2, "text": "a red ring", "at": 1, "step": 1, "sigma": 0.94, "value": "nan"}], "layers": [],
     "module": "transformer_blocks.3.ff", "weights": false}

step is that of metrics.jsonl, which counts from 1; the folder's name counts from 0, as records do. In rows,
`at` is the trained transition (null for a rollout) and `step` the sampling step.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from rlvis.records import PromptBatch, Schedule
from rlvis.rollout.stage import NonFiniteStateError
from rlvis.runtime import dist, finite
from rlvis.update import faults
from rlvis.update.faults import MOST, Broken

NAME = "broken.json"


def in_rollout(
    error: NonFiniteStateError | None,
    prompts: PromptBatch,
    size: int,
    schedule: Schedule,
    module: nn.Module,
    again: Callable[[list[int]], object],
    own: list[int],
) -> tuple[str, Broken]:
    """(message, what was not finite) of a rollout that broke on some rank; a collective.

    error: this rank's, None where its samples are fine. size: K. again: samples a micro-batch of rows once
    more, which tells where in the module it begins. own: rows to sample where there is no error.
    """
    local = [] if error is None else [[float(row), float(t)] for row, t in error.rows]
    table = dist.all_gather_rows(torch.tensor(local, dtype=torch.float64).reshape(-1, 2)).tolist()
    rows = [
        {
            "prompt": int(prompts.index[int(row) // size]),
            "sample": int(row) % size,
            "text": prompts.texts[int(row) // size],
            "at": None,
            "step": int(t),
            "sigma": float(schedule.sigma[int(t)]),
            "value": "not finite",
        }
        for row, t in sorted(table, key=lambda pair: (pair[1], pair[0]))
    ]
    with finite.watch(module) as first, suppress(NonFiniteStateError):
        again(own if error is None else error.micro_batch)
    first = finite.agreed(first, module)
    said = (
        f"{len(rows)} of {prompts.rows * size} samples are not finite: first sample {rows[0]['sample']} of "
        f"prompt {rows[0]['prompt']} ({rows[0]['text']!r}), after sampling step {rows[0]['step']} of "
        f"{schedule.steps} (sigma {rows[0]['sigma']:.3f})"
    )
    broken = Broken(0, rows[:MOST], [], first.module, first.weights)
    return f"{said}{faults.told(replace(broken, rows=[]))}", broken


def write(folder: Path, step: int, stage: str, what: str, broken: Broken) -> Path:
    """Write broken.json into a dump's folder, aside and renamed. step: from 1, as in metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    told = {"step": step, "stage": stage, "what": what, **dataclasses.asdict(broken)}
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path
