"""Whatever a scorer does to the process, its pictures or its caller is undone, named once, and costs its own
samples alone.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlvis.reward import boundary, execute
from rlvis.reward.away import is_away
from rlvis.reward.boundary import Boundary
from rlvis.reward.contract import Scores, Term
from rlvis.reward.function import Function
from rlvis.reward.limit import LateError
from rlvis.reward.stage import LocalScores, score
from rlvis.reward.surroundings import SETTINGS
from rlvis.schema import Executor

N = 4
MEDIA = torch.arange(N, dtype=torch.uint8).reshape(N, 1, 1, 1, 1).expand(N, 1, 3, 2, 2).contiguous()
TEXTS = [f"prompt {i}" for i in range(N)]
TRUE = [1.0, 2.0, 3.0, 4.0]


def pixel(images: Tensor, *_: Any) -> list[float]:
    """The honest score: first pixel plus one."""
    return [float(image[0, 0, 0, 0]) + 1 for image in images]


def term(function: Callable[..., Any], name: str = "mine", timeout: float | None = None) -> Term:
    return Term(name, Function(function), 1.0, Boundary(timeout))


def run(*terms: Term, **kwargs: Any) -> LocalScores:
    return score(terms, TEXTS, [{"tags": [i]} for i in range(N)], MEDIA.clone(), **{"retries": 0} | kwargs)


@pytest.mark.parametrize("write", ["zero_", "numpy", "flip", "data"])
def test_pictures_that_are_written_into_are_whole_for_the_next(
    write: str, caplog: pytest.LogCaptureFixture
) -> None:
    def vandal(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        scores = pixel(images)
        if write == "zero_":
            images.zero_()
        elif write == "numpy":  # past torch's version counter
            images.numpy()[...] = 7
        elif write == "flip":  # keeps every sum
            images.copy_(images.flip(0))
        else:
            images.data.add_(1)
        return scores

    media, before = MEDIA.clone(), MEDIA.clone()
    terms = [term(vandal), term(pixel, "next")]
    for _ in range(2):
        local = score(terms, TEXTS, [{}] * N, media, retries=0)
        assert local.value.tolist() == [[x, x] for x in TRUE]
        assert torch.equal(media, before)
    assert [r.getMessage() for r in caplog.records if "writes" in r.getMessage()] == [
        "reward mine writes into its pictures: it is given a copy, and nobody else sees it"
    ]


def test_a_retry_sees_the_true_pictures_and_metadata() -> None:
    calls = [0]

    def spoils_and_raises(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        calls[0] += 1
        scores = [a + b["tags"].pop() for a, b in zip(pixel(images), metadata, strict=True)]
        images.fill_(9)
        if calls[0] == 1:
            raise OSError("once")
        return scores

    assert run(term(spoils_and_raises), retries=1).value[:, 0].tolist() == [1, 3, 5, 7]


CHANGES: dict[str, Callable[[Path], Any]] = {
    "grad mode": lambda folder: torch.set_grad_enabled(False),
    "default dtype": lambda folder: torch.set_default_dtype(torch.float64),
    "default device": lambda folder: torch.set_default_device("meta"),
    "number of threads": lambda folder: torch.set_num_threads(torch.get_num_threads() + 1),
    "precision of matmuls": lambda folder: torch.set_float32_matmul_precision("medium"),
    "choice of deterministic algorithms": lambda folder: torch.use_deterministic_algorithms(True),
    "working folder": lambda folder: os.chdir(folder),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_global_is_put_back_and_named_once(
    name: str, fails: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def changes(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        scores = pixel(images)
        CHANGES[name](tmp_path)
        if fails:
            raise OSError
        return scores

    before = [one.read() for one in SETTINGS]
    mine = term(changes)
    for _ in range(2):
        run(mine)
        assert [one.read() for one in SETTINGS] == before
    named = [r.getMessage() for r in caplog.records if "put back" in r.getMessage()]
    assert len(named) == 1
    assert named[0].startswith(f"reward mine changes the {name} (")


def test_beside_a_rollout_it_is_put_back_too(tmp_path: Path) -> None:
    def changes(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        return pixel(images)

    before = os.getcwd()
    with execute.opened(Executor.thread) as scoring:
        assert (
            scoring.submit(lambda: run(term(changes), term(pixel, "next"))).result().value[:, 1].tolist()
            == TRUE
        )
        os.chdir(tmp_path)  # of whoever is left behind
    assert (os.getcwd(), torch.get_default_dtype()) == (before, torch.float32)


def test_a_change_of_the_other_thread_is_not_taken_for_the_scorer_s(tmp_path: Path) -> None:
    """The rollout goes to another folder for a moment, and is back before the scorer is done."""
    there, home = threading.Event(), os.getcwd()
    back = threading.Event()

    def slow(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        there.set()
        assert back.wait(10)
        return pixel(images)

    with execute.opened(Executor.thread) as scoring:
        os.chdir(tmp_path)
        job = scoring.submit(lambda: run(term(slow)))
        assert there.wait(10)
        os.chdir(home)
        back.set()
        job.result()
        assert os.getcwd() == home


def draws(images: Tensor, *_: Any) -> Tensor:
    drawn = torch.from_numpy(np.random.rand(len(images)))  # noqa: NPY002
    return torch.rand(len(images)).double() + drawn + random.random()


def test_draws_have_streams_of_their_own() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    one, two = (torch.cat([draws(MEDIA) for _ in range(2)]) for _ in range(2))

    def seeds(images: Tensor, *_: Any) -> list[float]:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(0)
        return pixel(images)

    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    mine, other = term(draws), term(seeds, "other")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    seen = torch.cat([run(mine, other).value[:, 0] for _ in range(4)])
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(seen, torch.cat([one, two]))  # as if nobody else had drawn or seeded

    kept = mine.boundary.streams
    with boundary.set_aside([mine.boundary]):
        run(mine)
    assert mine.boundary.streams is kept


class Own(BaseException):
    """Of somebody's."""


class OwnInterrupt(KeyboardInterrupt):
    """Of somebody's too."""


@pytest.mark.parametrize("error", [SystemExit(3), Own("a\nb"), OwnInterrupt(), GeneratorExit(), SystemExit()])
def test_nothing_a_scorer_raises_ends_the_run(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def raises(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        if float(images[0, 0, 0, 0, 0]) == 2 or len(images) > 1:
            raise error
        return pixel(images)

    local = run(term(raises))
    assert local.valid.tolist() == [True, True, False, True]
    (record,) = caplog.records
    assert f"the scorer raised {type(error).__name__}" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_ctrl_c_is_the_user_s() -> None:
    def pressed(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(term(pressed))


def sleeps(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
    time.sleep(60)
    return pixel(images)


def swallows(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            if time.monotonic() > end - 59.5:  # only the second interruption gets through
                raise
    return pixel(images)


@pytest.mark.parametrize("scorer", [sleeps, swallows])
def test_a_call_that_does_not_come_back_is_late(scorer: Callable[..., Any]) -> None:
    local = run(term(scorer, timeout=0.1), term(pixel, "next", timeout=5.0), retries=5)
    assert local.failures == {"mine/late": N}  # neither repeated nor asked row by row
    assert local.value[:, 1].tolist() == TRUE


def test_a_late_call_in_a_thread_is_left_behind_and_not_joined_by_another() -> None:
    let, calls = threading.Event(), [0]

    def hangs(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        calls[0] += 1
        let.wait(60)
        return pixel(images)

    mine = term(hangs, timeout=0.05)
    with execute.opened(Executor.thread) as scoring:
        for _ in range(2):
            assert scoring.submit(lambda: run(mine)).result().failures == {"mine/late": N}
        assert calls == [1]
        let.set()
        lost = mine.boundary._lost
        assert lost is not None
        lost.join(10)
        assert scoring.submit(lambda: run(mine)).result().value[:, 0].tolist() == TRUE


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError("111"), True),
        (TimeoutError(), True),
        (ValueError("no"), False),
        (LateError("x"), False),
        (type("HTTPError", (Exception,), {"code": 503})(), True),
        (type("HTTPError", (Exception,), {"status_code": 400})(), False),
        (type("APIConnectionError", (Exception,), {})(), True),
        (OSError("cannot read image 2"), False),
    ],
)
def test_what_counts_as_away(error: BaseException, away: bool) -> None:
    assert is_away(error) is away
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert is_away(outer) is away


@pytest.mark.parametrize(("outage", "valid"), [(20.0, True), (90.0, False)])
def test_patience_holds_the_step(outage: float, valid: bool, caplog: pytest.LogCaptureFixture) -> None:
    slept: list[float] = []

    def now() -> float:
        return sum(slept)

    def remote(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        if now() < outage:
            raise ConnectionRefusedError("111")
        return pixel(images)

    mine = term(remote)
    with caplog.at_level(logging.INFO):
        local = run(mine, retries=1, patience=60.0, clock=now, sleep=slept.append)
    assert bool(local.valid.all()) is valid
    assert now() == (25.0 if valid else 60.0)  # 1, 2, 4, 8, 10 ...
    news = mine.boundary.take()
    assert (news.seconds, news.alone) == (now(), 0 if valid else N)
    text = " ".join(r.getMessage() for r in caplog.records)
    assert "is away (ConnectionRefusedError: 111): the step waits up to 60 s" in text
    assert ("is back after 25 s" in text) is valid


def test_no_patience_for_a_scorer_that_is_there() -> None:
    def broken(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
        raise ValueError("no")

    slept: list[float] = []
    assert not bool(run(term(broken), patience=60.0, sleep=slept.append).valid.any())
    assert slept == []


async def later(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
    return pixel(images)


@pytest.mark.parametrize(
    "scorer",
    [
        lambda images, *_: (pixel(images), {"sharp": pixel(images), "all": 3}),
        lambda images, *_: {
            "score": pixel(images),
            "sharp": torch.tensor(pixel(images)),
            "all": 3,
            "name": "x",
        },
        lambda images, *_: [{"score": x, "sharp": x, "all": 3} for x in pixel(images)],
        lambda images, *_: torch.tensor(pixel(images))[:, None],
        lambda images, *_: np.array(pixel(images))[:, None],
        later,
    ],
)
def test_results_of_many_forms(scorer: Callable[..., Any]) -> None:
    mine = term(scorer)
    assert run(mine).value[:, 0].tolist() == TRUE
    extras = mine.boundary.take().means()
    assert extras in ({}, {"sharp": 2.5, "all": 3.0})


def test_scores_say_why_some_are_not_valid(caplog: pytest.LogCaptureFixture) -> None:
    def scorer(images: Tensor, prompts: Sequence[str], metadata: Sequence[Any]) -> Scores:
        return Scores(
            torch.full((len(images),), torch.nan), torch.zeros(len(images), dtype=bool), reason="too dark"
        )

    mine = Term("mine", scorer, 1.0)
    run(mine)
    assert caplog.messages == ["reward mine: 4 of 4 samples are masked (not_finite): too dark"]
    assert mine.boundary.reason == "too dark"
