"""The sampler: every epoch is a permutation, a step has different prompts, nothing depends on the past."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.data import sampler
from rlvis.data.prompts import PromptSet


def prompt_set(n: int) -> PromptSet:
    return PromptSet(tuple(f"prompt {i}" for i in range(n)), tuple({"row": i} for i in range(n)), "test")


def indices(n: int, p: int, step: int, *, shuffle: bool = True, seed: int = 0) -> list[int]:
    return sampler.batch(prompt_set(n), step, p, shuffle, seed).index.tolist()


def test_batch_carries_text_metadata_and_position() -> None:
    batch = sampler.batch(prompt_set(10), 3, 4, True, 0)
    assert batch.texts == tuple(f"prompt {i}" for i in batch.index.tolist())
    assert batch.metadata == tuple({"row": i} for i in batch.index.tolist())
    assert batch.embeds == {}


def test_file_order_wraps_around() -> None:
    assert [indices(5, 3, s, shuffle=False) for s in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 40), data=st.data(), seed=st.integers(0, 2**40), shuffle=st.booleans())
def test_epochs_are_permutations_and_steps_have_different_prompts(
    n: int, data: st.DataObject, seed: int, shuffle: bool
) -> None:
    p = data.draw(st.integers(1, n))
    steps = -(-4 * n // p)
    drawn = [indices(n, p, s, shuffle=shuffle, seed=seed) for s in range(steps)]
    assert all(len(set(step)) == p for step in drawn)
    stream = [i for step in drawn for i in step]
    for epoch in range(4):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 30), data=st.data())
def test_a_step_does_not_depend_on_the_steps_before(n: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, n))
    step = data.draw(st.integers(0, 100))
    before = [indices(n, p, s) for s in range(step + 1)][-1]
    sampler._epoch_order.cache_clear()  # as in a fresh process
    assert indices(n, p, step) == before


def test_seed_and_epoch_change_the_order() -> None:
    first = [indices(50, 50, 0, seed=seed) for seed in (0, 1)]
    assert first[0] != first[1]
    assert first[0] != indices(50, 50, 1)
    assert first[0] != list(range(50))


def test_more_prompts_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"prompts_per_step=6, but test has 5 .* data\.prompts_per_step=5"):
        indices(5, 6, 0)


@pytest.mark.parametrize(("p", "step"), [(0, 0), (2, -1)])
def test_nonsense_sizes(p: int, step: int) -> None:
    with pytest.raises(ValueError, match=r"prompts_per_step >= 1"):
        indices(5, p, step)


def test_select_keeps_the_order_asked_for() -> None:
    assert sampler.select(prompt_set(5), [3, 1]).texts == ("prompt 3", "prompt 1")
