"""The score stage keeps its contract: a failed score is masked and counted, and never becomes a number."""

import logging
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis.reward.contract import Scores, Term
from rlvis.reward.function import Function
from rlvis.reward.gather import assemble, gather
from rlvis.reward.stage import LocalScores, score

N = 4
MEDIA = torch.arange(N, dtype=torch.uint8).reshape(N, 1, 1, 1, 1).expand(N, 1, 3, 2, 2).contiguous()
TEXTS, METADATA = [f"prompt {i}" for i in range(N)], [{"row": i} for i in range(N)]


def pixel(images: Tensor) -> list[float]:
    """The honest score of these images: their first pixel plus one."""
    return [float(image[0, 0, 0, 0]) + 1 for image in images]


def term(function: Callable[..., object], name: str = "mine", weight: float = 1.0) -> Term:
    return Term(name, Function(function), weight)


def run(*terms: Term, retries: int = 2, rows: int = N) -> LocalScores:
    return score(terms, TEXTS[:rows], METADATA[:rows], MEDIA[:rows], retries)


def values(local: LocalScores, r: int = 0) -> list[float]:
    return local.value[:, r].tolist()


def test_good_scores_arrive_as_they_are() -> None:
    calls: list[tuple[list[str], list[dict]]] = []

    def honest(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        calls.append((prompts, metadata))
        return pixel(images)

    local = run(term(honest))
    assert values(local) == [1, 2, 3, 4]
    assert local.value.dtype == torch.float64
    assert local.valid.tolist() == [True] * N
    assert (local.failures, local.retried, local.noise_var, local.noise_dof) == ({}, 0, None, None)
    assert calls == [(TEXTS, METADATA)]


def test_one_image_that_raises_costs_one_sample(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def fragile(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        calls.append(len(prompts))
        if any(m["row"] == 2 for m in metadata):
            raise OSError("cannot read image 2")
        return pixel(images)

    with caplog.at_level(logging.WARNING, logger="rlvis.reward.stage"):
        local = run(term(fragile), retries=1)
    assert calls == [N, N, 1, 1, 1, 1]  # the call, one retry, then row by row
    assert local.valid.tolist() == [True, True, False, True]
    assert values(local)[:2] + values(local)[3:] == [1, 2, 4]
    assert math.isnan(values(local)[2])
    assert (local.failures, local.retried) == ({"mine/raised": 1}, 1)
    assert [r.getMessage() for r in caplog.records] == [
        "reward mine: 1 of 4 samples are masked (raised): OSError: cannot read image 2"
    ]


@pytest.mark.parametrize("failures", [1, 2])
def test_retry_that_succeeds_leaves_no_failure(failures: int) -> None:
    calls: list[int] = []

    def flaky(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        calls.append(len(prompts))
        if len(calls) <= failures:
            raise ConnectionError("busy")
        return pixel(images)

    local = run(term(flaky), retries=2)
    assert calls == [N] * (failures + 1)
    assert values(local) == [1, 2, 3, 4]
    assert (local.failures, local.retried) == ({}, failures)


def test_two_rows_are_scored_alone_too_and_one_row_only_once_more() -> None:
    calls: list[int] = []

    def fragile(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        calls.append(len(prompts))
        if any(m["row"] == 0 for m in metadata):
            raise OSError
        return pixel(images)

    assert run(term(fragile), retries=0, rows=2).valid.tolist() == [False, True]
    assert run(term(fragile), retries=1, rows=1).valid.tolist() == [False]
    assert calls == [2, 1, 1, 1, 1]


def test_a_scorer_that_always_raises_masks_all_and_never_scores_0(caplog: pytest.LogCaptureFixture) -> None:
    def broken(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        raise RuntimeError("no weights")

    local = run(term(broken), retries=0)
    assert not bool(local.valid.any())
    assert bool(local.value.isnan().all())
    assert local.failures == {"mine/raised": N}
    assert len(caplog.records) == 1  # one line for a kind, however many samples


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_scores_that_are_not_finite_are_masked(bad: float | None) -> None:
    local = run(term(lambda images, prompts, metadata: [*pixel(images)[:-1], bad]))
    assert local.valid.tolist() == [True, True, True, False]
    assert values(local)[:3] == [1, 2, 3]
    assert math.isnan(values(local)[3])
    assert local.failures == {"mine/not_finite": 1}


def test_too_few_scores_are_asked_for_row_by_row() -> None:
    calls: list[int] = []

    def drops_row_1(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        calls.append(len(prompts))
        return [v for v, m in zip(pixel(images), metadata, strict=True) if m["row"] != 1]

    local = run(term(drops_row_1), retries=5)
    assert calls == [N, 1, 1, 1, 1]  # a wrong count is not retried
    assert local.valid.tolist() == [True, False, True, True]
    assert [values(local)[i] for i in (0, 2, 3)] == [1, 3, 4]  # no score slid to its neighbour
    assert local.failures == {"mine/shape": 1}


@pytest.mark.parametrize("shape", [(-1, 2), (1, -1), ()])
def test_scores_of_a_wrong_shape_are_masked(shape: tuple[int, ...]) -> None:
    def odd(images: Tensor, prompts: list[str], metadata: list[dict]) -> Tensor:
        return torch.tensor(pixel(images)).repeat(2).reshape(shape) if shape else torch.tensor(1.0)

    local = run(term(odd))
    assert not bool(local.valid.any())
    assert local.failures == {"mine/shape": N}


def test_a_result_of_a_wrong_type_is_masked_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    local = run(term(lambda images, prompts, metadata: {"verdict": 1.0}), retries=0)
    assert local.failures == {"mine/raised": N}
    assert "returned a dict with verdict: wanted 'score' in it, one number each" in caplog.text


def test_a_scorer_may_refuse_a_sample() -> None:
    def scorer(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict]) -> Scores:
        return Scores(torch.tensor(pixel(images)), torch.tensor([m["row"] != 0 for m in metadata]))

    local = run(Term("mine", scorer, 1.0))
    assert local.valid.tolist() == [False, True, True, True]
    assert math.isnan(values(local)[0])
    assert local.failures == {"mine/refused": 1}


def test_one_failed_term_makes_the_sample_invalid_and_keeps_the_other_score() -> None:
    bad = term(lambda images, prompts, metadata: [math.nan, *pixel(images)[1:]], "bad")
    local = run(term(lambda images, prompts, metadata: pixel(images), "good"), bad)
    assert local.valid.tolist() == [False, True, True, True]
    assert values(local, 0) == [1, 2, 3, 4]
    assert math.isnan(values(local, 1)[0])
    assert local.failures == {"bad/not_finite": 1}


def noisy(var: list[float], dof: list[float] | None = None) -> Term:
    def scorer(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict]) -> Scores:
        pick = [m["row"] for m in metadata]
        noise_dof = None if dof is None else torch.tensor([dof[i] for i in pick])
        value = torch.tensor(pixel(images))
        return Scores(
            value, torch.ones(len(pick), dtype=torch.bool), torch.tensor([var[i] for i in pick]), noise_dof
        )

    return Term("noisy", scorer, 1.0)


def test_noise_is_kept_for_the_term_that_states_it() -> None:
    local = run(term(lambda images, prompts, metadata: pixel(images)), noisy([0.5, 0, 2, 4], [3, 3, 3, 3]))
    assert local.noise_var is not None
    assert local.noise_dof is not None
    assert local.noise_var[:, 1].tolist() == [0.5, 0, 2, 4]
    assert local.noise_dof[:, 1].tolist() == [3] * N
    assert bool(local.noise_var[:, 0].isnan().all())


@pytest.mark.parametrize(
    ("var", "dof"), [([1, -1, 1, 1], None), ([1, math.inf, 1, 1], None), ([1] * 4, [1, -2, 1, 1])]
)
def test_noise_that_is_no_variance_is_dropped_but_not_the_sample(
    var: list[float], dof: list[float] | None
) -> None:
    local = run(noisy(var, dof))
    assert local.valid.tolist() == [True] * N
    assert local.noise_var is not None
    assert local.noise_var[:, 0].isnan().tolist() == [False, True, False, False]
    assert local.failures == {"noisy/noise": 1}


def test_latency_is_the_time_of_each_term() -> None:
    ticks = iter([10.0, 10.5, 20.0, 23.0])
    honest = [term(lambda images, prompts, metadata: pixel(images), name) for name in "ab"]
    local = score(honest, TEXTS, METADATA, MEDIA, 0, clock=lambda: next(ticks))
    assert local.latency == (0.5, 3.0)


def test_no_rows_call_no_scorer() -> None:
    def never(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        raise AssertionError

    local = run(term(never), rows=0)
    assert (local.value.shape, local.valid.shape, local.failures) == ((0, 1), (0,), {})


def test_an_interrupt_is_not_a_failed_score() -> None:
    def interrupted(images: Tensor, prompts: list[str], metadata: list[dict]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(term(interrupted))


@pytest.mark.parametrize("media", [MEDIA.float(), MEDIA[:, 0], MEDIA[:2]])
def test_inputs_that_do_not_match(media: Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 media \[4, M, 3, Y, X\]"):
        score([term(lambda *a: [])], TEXTS, METADATA, media)


@settings(deadline=None, max_examples=50)
@given(
    faults=st.lists(st.sampled_from(["ok", "raise", "nan", "drop", "wide"]), min_size=1, max_size=6),
    retries=st.integers(0, 2),
)
def test_whatever_fails_the_good_rows_keep_their_own_score(faults: list[str], retries: int) -> None:
    n = len(faults)

    def scorer(images: Tensor, prompts: list[str], metadata: list[dict]) -> object:
        rows = [m["row"] for m in metadata]
        if any(faults[i] == "raise" for i in rows):
            raise RuntimeError("bad row")
        if any(faults[i] == "wide" for i in rows):
            return [[float(i), 0.0] for i in rows]
        return [math.nan if faults[i] == "nan" else float(i) for i in rows if faults[i] != "drop"]

    media = torch.zeros(n, 1, 3, 1, 1, dtype=torch.uint8)
    local = score([term(scorer)], ["x"] * n, [{"row": i} for i in range(n)], media, retries)
    good = [fault == "ok" for fault in faults]
    assert local.valid.tolist() == good
    assert [v for v in values(local) if not math.isnan(v)] == [i for i in range(n) if good[i]]
    assert sum(local.failures.values()) == n - sum(good)


def shard(value: list[float], valid: list[bool], *, var: list[float] | None = None) -> LocalScores:
    column = torch.tensor(value, dtype=torch.float64)[:, None]
    noise = None if var is None else torch.tensor(var, dtype=torch.float64)[:, None]
    return LocalScores(column, torch.tensor(valid), noise, noise, (1.5,), {}, 0)


TERM = [term(lambda *a: [], "mine", 0.5)]


def test_two_ranks_see_the_same_rewards() -> None:
    nan = math.nan
    ranks = [
        ([shard([1, 2], [True, True]), shard([nan], [False])], [0, 0, 0], [0, 1, 2]),
        ([shard([4, 5], [True, True], var=[0.1, nan])], [1, 1], [0, 1]),
    ]
    tables: list[Tensor] = []

    def collect(rows: Tensor) -> Tensor:
        tables.append(rows)
        return rows

    for parts, prompt, sample in ranks:
        gather(parts, torch.tensor(prompt), torch.tensor(sample), TERM, 2, 3, collect)
    together = torch.cat(tables)
    gathered = [
        gather(parts, torch.tensor(prompt), torch.tensor(sample), TERM, 2, 3, lambda rows: together)
        for parts, prompt, sample in ranks
    ]
    for rewards in gathered:
        assert rewards.valid.tolist() == [[True, True, False], [True, True, False]]  # (1, 2) was never scored
        assert rewards.term[rewards.valid].flatten().tolist() == [1, 2, 4, 5]
        assert bool(rewards.term[~rewards.valid].isnan().all())
        assert rewards.noise_var is not None
        assert float(rewards.noise_var[1, 0, 0]) == 0.1
        assert int(rewards.noise_var.isnan().sum()) == 5
        assert (rewards.names, rewards.weights) == (("mine",), (0.5,))
    assert [r.latency for r in gathered] == [(3.0,), (1.5,)]


def test_a_rank_without_rows_still_gathers() -> None:
    none = torch.empty(0, dtype=torch.int64)
    other = torch.tensor([[0, 1, 1, 7.5, math.nan, math.nan]], dtype=torch.float64)
    rewards = gather([], none, none, TERM, 1, 2, lambda rows: torch.cat([rows, other]))
    assert rewards.valid.tolist() == [[False, True]]
    assert float(rewards.term[0, 1, 0]) == 7.5
    assert (rewards.noise_var, rewards.latency) == (None, (0.0,))


def test_gather_refuses_rows_without_a_place() -> None:
    with pytest.raises(ValueError, match="scores of 2 rows for 1 prompts"):
        gather(
            [shard([1, 2], [True, True])], torch.tensor([0]), torch.tensor([0]), TERM, 1, 2, lambda rows: rows
        )


@pytest.mark.parametrize(
    ("prompt", "sample", "message"),
    [
        ([0, 2], [0, 0], r"prompt 2, sample 0, outside of the 2 prompts x 3 samples"),
        ([0, 1], [0, 3], r"prompt 1, sample 3, outside"),
        ([0, -1], [0, 0], r"prompt -1, sample 0, outside"),
        ([1, 1], [2, 2], r"prompt 1, sample 2 is scored twice"),
    ],
)
def test_assemble_refuses_wrong_places(prompt: list[int], sample: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(
            torch.tensor(prompt),
            torch.tensor(sample),
            torch.zeros(2, 1, dtype=torch.float64),
            torch.ones(2, dtype=torch.bool),
            names=("mine",),
            weights=(1.0,),
            groups=2,
            group_size=3,
            latency=(0.0,),
        )
