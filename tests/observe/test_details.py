"""details.jsonl: numbers of a line against hand-made ones, what is null, and the cut at a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from rlvis.observe import details
from rlvis.records import PolicyUpdate, PromptBatch, Rewards

PROMPTS = PromptBatch(
    index=torch.tensor([7, 2]), texts=("a\nred ring", "two"), metadata=({"kind": "single"}, {})
)
REWARDS = Rewards(
    term=torch.tensor(
        [[[1.0, 4.0], [3.0, 4.0], [math.nan, 1.0]], [[math.nan, 1.0]] * 3], dtype=torch.float64
    ),
    names=("a", "b"),
    weights=(1.0, 0.5),
    valid=torch.tensor([[True, True, False], [False] * 3]),
    latency=(0.0, 0.0),
)
UPDATE = PolicyUpdate(
    policy_step=2,
    metrics={},
    details={
        "transition/1/sigma": 0.5,
        "transition/1/loss": -1e-6,
        "transition/0/sigma": 1.0,
        "transition/0/ratio_max_deviation": math.inf,
        "transition/0/kl": 0.25,
        "layer/proj_out": 0.5,
        "layer/blocks.0": math.nan,
    },
)


def test_a_line() -> None:
    line = details.row(PROMPTS, REWARDS, UPDATE, 3)
    assert line["step"] == 3
    assert line["prompts"] == [
        {
            "prompt": 7,
            "text": "a\nred ring",
            "kind": "single",
            "valid": 2,
            "mean": 4.0,
            "std": 1.0,
            "terms": {"a": 2.0, "b": 4.0},
        },
        {
            "prompt": 2,
            "text": "two",
            "kind": None,
            "valid": 0,
            "mean": None,
            "std": None,
            "terms": {"a": None, "b": None},
        },
    ]
    assert [t["at"] for t in line["transitions"]] == [0, 1]
    assert line["transitions"][0]["kl"] == 0.25
    assert line["transitions"][1] == {
        "at": 1,
        "sigma": 0.5,
        "ratio_max_deviation": None,
        "clip_fraction": None,
        "loss": -1e-6,
        "kl": None,
    }
    assert line["layers"] == {"proj_out": 0.5, "blocks.0": "NaN"}


def test_lines_are_strict_json_and_a_resumed_run_writes_its_steps_once(tmp_path: Path) -> None:
    details.resume(tmp_path, 2)  # nothing there yet
    for step in (1, 2, 3):
        details.append(tmp_path, details.row(PROMPTS, REWARDS, UPDATE, step))
    path = tmp_path / details.NAME
    with path.open("a") as file:
        file.write('{"step": 4, "pro')
    details.resume(tmp_path, 3)
    details.append(tmp_path, details.row(PROMPTS, REWARDS, UPDATE, 3))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["transitions"][0]["ratio_max_deviation"] == "Infinity"
