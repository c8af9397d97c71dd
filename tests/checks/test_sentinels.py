"""What of the sentinels section is refused, and what is said to type."""

from __future__ import annotations

import pytest

from rlvis.checks.config import check
from rlvis.checks.sentinels import needs_reference
from rlvis.compose.command import compose


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sentinels.baseline=2"],
            "sentinels.baseline=2: wanted at least 5 (training steps); type sentinels.baseline=10",
        ),
        (["sentinels.patience=0"], "type sentinels.patience=3"),
        (["sentinels.threshold=0"], "type sentinels.threshold=6"),
        (
            ["sentinels.rollbacks=3", "sentinels.action=stop"],
            "type sentinels.action=rollback, or sentinels.rollbacks=1",
        ),
        (["sentinels.action=stop", "train.steps=12"], "can never act"),
        (
            ["sentinels.action=rollback"],
            "train.save_every=0 writes none on the way; type train.save_every=10",
        ),
        (["sentinels.action=rollback", "train.save_every=20"], "writes the first after step 20"),
        (["sentinels.action=rollback", "train.save_every=1"], "type train.keep=4"),
        (
            ["sentinels.action=rollback", "train.save_every=5", "eval=shapes", "eval.every=10"],
            "type train.keep=3",
        ),
    ],
)
def test_a_contradiction_is_one_message(words: list[str], message: str) -> None:
    (error,) = check(compose(words).typed())
    assert message in str(error)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train.steps=2"],
        ["sentinels.action=off"],
        ["sentinels.action=stop"],
        ["sentinels.action=rollback", "train.save_every=10", "sentinels.rollbacks=2"],
        ["sentinels.action=rollback", "train.save_every=1", "train.keep=4"],
    ],
)
def test_what_can_run_is_not_refused(words: list[str]) -> None:
    assert check(compose(words).typed()) == []


def test_who_needs_the_policy_before_training() -> None:
    assert not needs_reference(compose([]).typed())
    assert needs_reference(compose(["advantage.kl_beta=0.1"]).typed())
