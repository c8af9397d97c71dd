"""Windows: what is trained and stochastic, never the last transition, never an empty window."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.flow import windows
from rlvis.flow.progressive import first_empty


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_all_is_everything_but_the_last() -> None:
    window = windows.select("all", 6)
    assert window.trained.tolist() == [0, 1, 2, 3, 4]
    assert window.stochastic.tolist() == [True] * 5 + [False]


def test_fixed_is_stochastic_inside_only() -> None:
    window = windows.select("fixed", 6, start=1, size=3)
    assert window.trained.tolist() == [1, 2, 3]
    assert window.stochastic.tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("steps", "fraction", "size"), [(16, 0.6, 9), (101, 0.29, 29), (10, 1.0, 9), (25, 0.6, 14)]
)
def test_random_subset_has_the_published_size_and_is_sorted(steps: int, fraction: float, size: int) -> None:
    window = windows.select("random_subset", steps, fraction=fraction, rng=rng())
    assert window.trained.shape == (size,)
    assert bool((np.diff(window.trained) > 0).all())
    assert int(window.trained.max()) < steps - 1
    assert window.stochastic.tolist() == [True] * (steps - 1) + [False]


def test_random_subset_takes_every_transition_equally_often() -> None:
    count = np.zeros(15)
    for seed in range(600):
        count[windows.random_subset(16, 0.6, rng(seed)).trained] += 1
    # Binomial(600, .6): standard deviation 12; 5 of them.
    assert bool((np.abs(count - 360) < 60).all())


def test_a_sequence_of_generators_gives_every_sample_its_own_window() -> None:
    window = windows.random_subset(16, 0.6, [rng(s) for s in (3, 4, 5)])
    assert window.trained.shape == (3, 9)
    assert window.stochastic.shape == (3, 16)
    # A sample's window depends on its own generator, not on its place.
    assert np.array_equal(window.trained[1], windows.random_subset(16, 0.6, rng(4)).trained)
    assert not np.array_equal(window.trained[0], window.trained[1])


def test_random_window_covers_low_to_high_inclusive() -> None:
    drawn = [windows.select("random_window", 10, size=2, low=1, high=5, rng=rng(s)) for s in range(60)]
    assert {int(w.trained[0]) for w in drawn} == {1, 2, 3}
    drawn = [windows.select("random_window", 10, size=2, rng=rng(s)) for s in range(200)]
    assert max(int(w.trained[-1]) for w in drawn) == 8


def test_progressive_slides_shrinks_and_starts_over() -> None:
    def trained(iteration: int, **kwargs: Any) -> list[int]:
        return windows.progressive(10, iteration, size=3, iters_per_group=2, **kwargs).trained.tolist()

    assert trained(0) == trained(1) == [0, 1, 2]
    assert trained(2) == [1, 2, 3]
    assert trained(14) == [7]
    assert trained(18) == [0, 1, 2]
    assert trained(2, stride=3) == [3, 4, 5]
    assert trained(12, high=9) == [6, 7, 8]


def test_the_empty_position_of_the_published_machine_is_an_error_and_known_beforehand() -> None:
    with pytest.raises(ValueError, match=r"empty at iteration 16: it has moved to transition 8 of 8"):
        windows.progressive(10, 16, size=3, iters_per_group=2)
    assert first_empty(10, 100, size=3, iters_per_group=2) == 16
    assert first_empty(10, 16, size=3, iters_per_group=2) is None
    # Strides that step over the end never get there while rolling back.
    assert first_empty(10, 500, size=3, iters_per_group=2, stride=3) is None
    assert first_empty(10, 500, size=3, iters_per_group=2, stride=3, roll_back=False) == 6


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["all", "fixed", "random_subset", "random_window", "progressive"]),
    steps=st.integers(3, 40),
    size=st.integers(1, 6),
    start=st.integers(0, 10),
    fraction=st.floats(0.01, 1.0),
    iteration=st.integers(0, 400),
    seed=st.integers(0, 99),
)
def test_trained_transitions_are_stochastic_sorted_and_never_the_last(
    kind: Any, steps: int, size: int, start: int, fraction: float, iteration: int, seed: int
) -> None:
    # Arguments that leave something to train; the others are refused, see below.
    start, size = start % (steps - 2), min(size, steps - 2)
    size = min(size, steps - 1 - start) if kind == "fixed" else size
    fraction = max(fraction, 1 / (steps - 1))
    iteration %= 7 * (steps - 2)
    window = windows.select(
        kind,
        steps,
        rng=rng(seed),
        fraction=fraction,
        start=start,
        size=size,
        iteration=iteration,
        iters_per_group=7,
    )
    assert window.trained.dtype == np.int64
    assert window.trained.size > 0
    assert bool((np.diff(window.trained) > 0).all())
    assert window.stochastic.shape == (steps,)
    assert bool(window.stochastic[window.trained].all())
    assert not bool(window.stochastic[-1])


def test_empty_and_overlong_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"start \+ size <= 9"):
        windows.fixed(10, 8, 2)
    with pytest.raises(ValueError, match=r"at least one"):
        windows.fixed(10, 0, 0)
    with pytest.raises(ValueError, match=r"at least one"):
        windows.select("all", 1)
    with pytest.raises(ValueError, match=r"timestep_fraction=0\.05 of 9 trainable transitions is 0"):
        windows.random_subset(10, 0.05, rng())
    with pytest.raises(ValueError, match=r"does not fit in \[3, 5\)"):
        windows.random_window(10, 3, rng(), low=3, high=5)
    with pytest.raises(ValueError, match=r"high <= 9"):
        windows.random_window(10, 3, rng(), high=10)
    with pytest.raises(ValueError, match=r"pass rng"):
        windows.select("random_subset", 10)
    with pytest.raises(ValueError, match=r"got 'sliding'"):
        windows.select("sliding", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs size, iters_per_group"):
        windows.progressive(2, 0)


def test_the_first_empty_iteration_is_where_the_machine_stops() -> None:
    def empty(iteration: int, *arguments: Any) -> bool:
        try:
            windows.progressive(8, iteration, *arguments)
        except ValueError:
            return True
        return False

    for high, stride, per, roll in itertools.product((1, 4, 6), (1, 2, 3), (1, 5), (True, False)):
        arguments = (1, per, stride, roll, high)
        walked = next((i for i in range(100) if empty(i, *arguments)), None)
        assert first_empty(8, 100, *arguments) == walked, arguments
        assert first_empty(8, walked or 0, *arguments) is None
