"""The first line of a run, and the passes it announces."""

from __future__ import annotations

import pytest
import torch

from rlvis.compose.command import compose
from rlvis.plan.summary import forwards, summary
from rlvis.runtime import rng
from rlvis.update.minibatch import plan


def test_the_line_of_a_large_run() -> None:
    words = ["data.prompts_per_step=48", "data.samples_per_prompt=12", "sampler.steps=10", "train.steps=300"]
    words.append("train.micro_batch=8")
    config = compose([*words, "sampler.window.kind=fixed", "sampler.window.size=5"]).typed()
    assert summary(config, 8, 480) == (
        "48 prompts x 12 samples = 576 images/step on 8 processes (6 groups each), 2 updates/step of 288, "
        "5 trained transitions of 10, micro-batch 8: 90 forwards to sample and 50 to train on each, "
        "300 steps = 30 epochs, outputs/run/DATE_TIME"
    )


def test_groups_that_straddle_processes_videos_guidance_and_best_of_n() -> None:
    words = [
        "data.prompts_per_step=4",
        "model.frames=9",
        "model.cfg=4.5",
        "advantage.best_of_n=4",
        "run_dir=here",
    ]
    line = summary(compose(words).typed(), 3)
    for part in ("32 videos/step", "on 3 processes (10 to 11 samples each)", "of 8 (the 4 extreme samples"):
        assert part in line
    assert "two guidance branches each" in line
    assert line.endswith(", here")


@pytest.mark.parametrize(
    ("processes", "updates", "micro_batch"), [(1, 2, 8), (2, 2, 3), (3, 1, 5), (8, 4, 2)]
)
def test_forwards_are_those_of_the_plan(processes: int, updates: int, micro_batch: int) -> None:
    words = ["sampler=flow_sde", "data.prompts_per_step=4", f"train.updates_per_step={updates}"]
    words.append(f"train.micro_batch={micro_batch}")
    config = compose(words).typed()
    sample, train = forwards(config, processes)
    most_rows = max(len(range(r * 32 // processes, (r + 1) * 32 // processes)) for r in range(processes))
    assert sample == -(-most_rows // micro_batch) * 8
    keep = torch.ones(4, 8, dtype=torch.bool)
    planned = plan(keep, updates, micro_batch, processes, rng.generator(0, 0, "updates"))
    passes = sum(len(step.ranks[0]) for step in planned) * 7
    assert (
        train <= passes <= train + 7 * updates
    )  # samples of an update need not be spread evenly over processes
