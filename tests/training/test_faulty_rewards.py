"""Trainings whose scorers fail: the samples that were lost, no other, and the weights of a run that lost them
by hand.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.records import Rewards, Trajectories
from rlvis.reward.contract import Scores, Term
from rlvis.reward.function import Function
from rlvis.reward.serving import wire
from rlvis.training import pipeline
from rlvis.training.parts import Hooks
from tests.doctor import cases
from tests.doctor.cases import brightness
from tests.reward.serving.places import Net, host, later, remote, served

STEPS, ROWS, SHARD = 2, 12, 4
Metadata = Sequence[dict[str, Any]]


def content(image: Tensor, prompt: str) -> str:
    """What tells one sample from another."""
    return hashlib.sha256(image.contiguous().numpy().tobytes() + prompt.encode()).hexdigest()


class Run:
    """Some steps of a tiny training: rewards, contents by (step, prompt, sample), the weights after them."""

    def __init__(self, folder: Path, term: Term, executor: S.Executor = S.Executor.inline) -> None:
        parts = cases.make(
            folder,
            [term],
            reward={"executor": executor},
            sampler={"steps": 3},
            train={"micro_batch": SHARD, "shard": SHARD, "score_retries": 1, "updates_per_step": 1},
        )
        memory = cases.memory(parts.config)
        self.rewards: list[Rewards] = []
        self.contents: dict[tuple[int, int, int], str] = {}
        self.seconds: list[dict[str, float]] = []
        for step in range(STEPS):
            pieces: list[Trajectories] = []
            memory, records = pipeline.train_step(parts, memory, step, Hooks(watch=pieces.append))
            self.rewards.append(records.rewards)
            self.seconds.append(records.seconds)
            for piece in pieces:
                assert piece.media is not None
                for p, k, image in zip(
                    piece.prompt.tolist(), piece.sample.tolist(), piece.media, strict=True
                ):
                    self.contents[step, p, k] = content(image, records.prompts.texts[p])
        self.weights = {name: p.detach().clone() for name, p in parts.policy.module.named_parameters()}

    @property
    def lost(self) -> set[str]:
        """Contents of the samples without a valid score."""
        return {
            what for (step, p, k), what in self.contents.items() if not bool(self.rewards[step].valid[p, k])
        }

    def same(self, other: Run) -> bool:
        """Whether both ended in the same bits."""
        return all(torch.equal(p, other.weights[name]) for name, p in self.weights.items())


def term_of(scorer: Callable[..., Any]) -> Term:
    return Term("brightness", Function(scorer), 1.0)


def by_hand(lost: set[str]) -> Term:
    """The honest scorer, told which samples to call invalid."""

    def scorer(images: Tensor, prompts: Sequence[str], metadata: Metadata) -> Scores:
        valid = [content(image, text) not in lost for image, text in zip(images, prompts, strict=True)]
        return Scores(brightness(images, list(prompts), []), torch.tensor(valid))

    return Term("brightness", scorer, 1.0)


@pytest.fixture(scope="module")
def honest(sd3_folder: Path) -> Run:
    """The same training with no fault."""
    return Run(sd3_folder, term_of(brightness))


def settled(faulty: Run, honest: Run, folder: Path, least: int, most: int) -> None:
    """What holds of every training with faults of between `least` and `most` of its samples."""
    lost = sum(int((~rewards.valid).sum()) for rewards in faulty.rewards)
    assert least <= lost <= most
    for rewards in faulty.rewards:
        assert bool(rewards.term[~rewards.valid].isnan().all())  # never a number, and so never 0
    first, true = faulty.rewards[0], honest.rewards[0]  # the weights are still the same there
    assert torch.equal(first.term[first.valid], true.term[first.valid])
    assert faulty.same(Run(folder, by_hand(faulty.lost)))
    assert not faulty.same(honest)


def test_30_percent_of_calls_fail(sd3_folder: Path, honest: Run) -> None:
    chance, calls = random.Random(3), [0, 0]

    def scorer(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
        calls[0] += 1
        if chance.random() < 0.3:
            calls[1] += 1
            raise RuntimeError("out of luck")
        return brightness(images, prompts, metadata)

    faulty = Run(sd3_folder, term_of(scorer))
    assert calls[1] > 0.15 * calls[0]
    settled(faulty, honest, sd3_folder, 1, STEPS * ROWS // 2)


def test_a_scorer_that_raises_on_one_image(sd3_folder: Path, honest: Run) -> None:
    bad = honest.contents[0, 1, 2]

    def scorer(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
        if any(content(image, text) == bad for image, text in zip(images, prompts, strict=True)):
            raise ValueError("this one")
        return brightness(images, prompts, metadata)

    faulty = Run(sd3_folder, term_of(scorer))
    assert faulty.lost == {bad}
    settled(faulty, honest, sd3_folder, 1, 1)


def answer(body: bytes) -> httpx.Response:
    images, prompts, metadata = wire.decode(body)
    value = brightness(images, prompts, metadata).tolist()
    return httpx.Response(200, json={"value": value, "valid": [True] * len(value)})


def gone(body: bytes) -> httpx.Response:
    raise httpx.ConnectError("Connection refused")


def some(
    faults: Callable[[int], bool], fault: Callable[[bytes], httpx.Response]
) -> Callable[[bytes], httpx.Response]:
    """Answers, but for the requests that `faults` names by their number."""
    number = [-1]

    def reply(body: bytes) -> httpx.Response:
        number[0] += 1
        return fault(body) if faults(number[0]) else answer(body)

    return reply


@pytest.mark.parametrize("executor", [S.Executor.inline, S.Executor.thread])
def test_a_server_that_dies_and_returns(sd3_folder: Path, honest: Run, executor: S.Executor) -> None:
    """It is away during the second shard (three attempts, a retry of the stage, two single rows); then it is
    there again.
    """
    net = Net(a=host(some(lambda n: 1 <= n < 7, gone)))
    with remote(net, attempts=3, rest=0.5) as client:
        faulty = Run(sd3_folder, Term("brightness", later(client), 1.0), executor)
    settled(faulty, honest, sd3_folder, 2, 2)


def test_a_server_that_is_away_for_a_moment_costs_nothing(sd3_folder: Path, honest: Run) -> None:
    net = Net(a=host(some(lambda n: n in (1, 2, 5), gone)))
    with remote(net) as client:
        faulty = Run(sd3_folder, Term("brightness", later(client), 1.0))
    assert faulty.lost == set()
    assert faulty.same(honest)


def test_garbage_answers(sd3_folder: Path, honest: Run) -> None:
    chance = random.Random(4)
    kinds = [
        httpx.Response(200, content=b"\x93NUMPY\x00garbage"),
        httpx.Response(200, json={"value": [0.0] * 99, "valid": [True]}),
        httpx.Response(200, json={"value": ["0"] * 4, "valid": [True] * 4}),
        httpx.Response(500, text="<h1>Internal Server Error</h1>"),
    ]
    net = Net(a=host(some(lambda n: chance.random() < 0.5, lambda body: chance.choice(kinds))))
    with remote(net, attempts=1) as client:
        faulty = Run(sd3_folder, Term("brightness", later(client), 1.0))
    settled(faulty, honest, sd3_folder, 1, STEPS * ROWS - 4)


def test_answers_1000_times_too_late(sd3_folder: Path, honest: Run) -> None:
    """All of the second shard's; a clock that runs ahead makes it a matter of milliseconds."""
    number = [-1]

    def delay() -> float:
        number[0] += 1
        return 100.0 if 1 <= number[0] <= 7 else 0.1

    net = Net(a=host(answer, delay))
    with remote(net, timeout=0.5, rest=0.1) as client:
        faulty = Run(sd3_folder, Term("brightness", later(client), 1.0))
    settled(faulty, honest, sd3_folder, SHARD, SHARD)


@pytest.mark.parametrize("where", ["thread", "server"])
def test_where_scorers_run_changes_no_bit(
    sd3_folder: Path, honest: Run, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: AbstractContextManager[Any] = nullcontext()
    if where == "server":
        there = served([term_of(brightness)], None)
    with there as url:
        term = term_of(brightness)
        if where == "server":
            from rlvis.reward.serving.client import Remote

            term = Term("brightness", Remote([url], token_env=None), 1.0)
        run = Run(sd3_folder, term, S.Executor.thread)
        if where == "server":
            term.scorer.close()  # type: ignore[attr-defined]
    assert run.same(honest)
    assert all(torch.equal(a.term, b.term) for a, b in zip(run.rewards, honest.rewards, strict=True))
    assert all(seconds["scorers"] > 0 for seconds in run.seconds)


def test_a_mistake_of_ours_in_the_thread_stops_the_run(
    sd3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(pipeline, "score", broken)
    with pytest.raises(AssertionError, match="a bug"):
        Run(sd3_folder, term_of(brightness), S.Executor.thread)
