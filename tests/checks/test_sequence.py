"""Numbers of processes and degrees of sequence parallelism that do not go together, in words."""

from __future__ import annotations

import pytest

from rlvis.checks.config import check
from rlvis.checks.sequence import degree, groups
from rlvis.compose.command import compose
from rlvis.plan.summary import summary
from rlvis.schema import Config


def config(shared: int, *words: str) -> Config:
    return compose([f"engine.sequence_parallel={shared}", *words]).typed()


@pytest.mark.parametrize(
    ("shared", "processes", "words", "message"),
    [
        (0, 1, [], "engine.sequence_parallel=0: wanted at least 1"),
        (2, 1, [], "start 2 processes (torchrun --nproc-per-node), or type engine.sequence_parallel=1"),
        (4, 6, [], "start 8 processes (torchrun --nproc-per-node), or type engine.sequence_parallel=3"),
        (2, 1, ["plan=true"], "plan=true with engine.sequence_parallel=2: the plan counts whole sequences"),
        (
            2,
            8,
            ["data.prompts_per_step=1", "data.samples_per_prompt=3", "train.updates_per_step=1"],
            "1 * 3 = 3 samples cannot be spread over 4 groups of 2 processes: each needs one; start at most "
            "6",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    shared: int, processes: int, words: list[str], message: str
) -> None:
    (error,) = check(config(shared, *words), processes)
    assert message in str(error)


def test_what_fits_is_taken() -> None:
    assert check(config(2), 4) == []
    assert groups(config(2), 4) == 2


def test_stages_without_a_policy_share_out_rows_alone() -> None:
    scoring = config(2, "stage=score", "records=DIR")
    assert degree(scoring) == 1
    assert groups(scoring, 3) == 3
    assert check(scoring, 3) == []


def test_the_first_line_of_a_run_counts_groups() -> None:
    words = ["data.prompts_per_step=4", "data.samples_per_prompt=6", "sampler.steps=10"]
    line = summary(config(2, *words, "train.micro_batch=3"), 4)
    assert "on 2 x 2 processes, of which 2 share the tokens of a sample (2 groups each)" in line
    assert "40 forwards to sample" in line  # 12 rows in micro-batches of 3
