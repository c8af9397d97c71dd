"""Rules of refill, canaries and a judge that compares: each is found, and what it says to type helps."""

from __future__ import annotations

import shlex

import pytest

from rlvis.checks.config import check
from rlvis.compose.command import compose

PAIRS = [
    "reward=vlm",
    "reward.terms.vlm.kwargs.model=NAME",
    "reward.terms.vlm.kwargs.mode=pairwise",
    "+reward.terms.vlm.kwargs.group=8",
    "data.prompts_per_step=12",
]
MISTAKES = [
    (["reward.refill=-1"], 1, "reward.refill=-1: wanted at least 0 (rounds)"),
    (["reward.refill=1", "stage=score", "records=DIR"], 1, "but stage=score runs one stage"),
    (["reward.canary.every=-1"], 1, "reward.canary.every=-1: wanted at least 0"),
    (["reward.canary.samples=8"], 1, "reward.canary.samples=8 does nothing with reward.canary.every=0"),
    (["reward.canary.tolerance=1"], 1, "reward.canary.tolerance=1 does nothing"),
    (["reward.canary.every=5", "reward.canary.samples=1"], 1, "wanted at least 2 (samples)"),
    (["reward.canary.every=5", "reward.canary.samples=50"], 2, "at most the 48 samples that the first"),
    (["reward.canary.every=5", "reward.canary.tolerance=0"], 1, "reward.canary.tolerance=0: wanted above 0"),
    (["reward.canary.every=5", "stage=rollout", "records=DIR"], 1, "but stage=rollout runs one stage"),
    ([*PAIRS, "reward.terms.vlm.kwargs.group=4"], 1, "kwargs.group=4, but data.samples_per_prompt=8"),
    ([*PAIRS, "reward.terms.vlm.kwargs.group=null"], 1, "kwargs.group=null, but data.samples_per_prompt=8"),
    (PAIRS, 8, "but 12 prompts on 8 processes split groups between them; type data.prompts_per_step=16"),
    ([*PAIRS, "train.shard=12"], 1, "but train.shard=12 splits groups of 8; type train.shard=16"),
    ([*PAIRS, "reward.refill=1"], 1, "fresh samples have no group"),
    ([*PAIRS, "reward.canary.every=5"], 1, "reward.canary.samples=4 are no whole groups"),
    (
        [*PAIRS, "reward.executor=http", "reward.servers=[http://127.0.0.1:8700]"],
        1,
        "reward.executor=http shares the samples of a call out",
    ),
]


@pytest.mark.parametrize(("words", "ranks", "message"), MISTAKES)
def test_a_mistake_is_found_and_what_to_type_helps(words: list[str], ranks: int, message: str) -> None:
    errors = check(compose(words).typed(), ranks)
    matches = [error for error in errors if message in str(error)]
    assert len(matches) == 1, errors
    remedy = shlex.split(matches[0].type)[0].rstrip(",")
    key = remedy.split("=")[0]
    kept = [word for word in words if not word.startswith((f"{key}=", f"+{key}="))]
    left = check(compose([*kept, remedy]).typed(), ranks)
    assert not any(message in str(error) for error in left)


def test_what_is_right_passes() -> None:
    for words in (
        ["reward.refill=2"],
        ["reward.canary.every=5", "reward.canary.samples=48"],
        [*PAIRS, "train.shard=16", "reward.canary.every=5", "reward.canary.samples=8"],
    ):
        assert check(compose(words).typed(), 2) == []
