"""The learning rate is a pure function of the step: closed forms, and what the optimizer steps with."""

from __future__ import annotations

import pytest

from rlvis.runtime.learning_rate import learning_rate
from rlvis.schema import LrSchedule, OptimConfig


def rates(steps: int, warmup: int, schedule: LrSchedule) -> list[float]:
    optim = OptimConfig(lr=8.0, warmup=warmup, schedule=schedule)
    return [learning_rate(optim, steps, step) for step in range(steps)]


def test_constant_without_warm_up_is_the_number_itself() -> None:
    assert rates(3, 0, LrSchedule.constant) == [8.0, 8.0, 8.0]


def test_the_warm_up_rises_by_equal_parts_and_reaches_the_number_at_its_last_step() -> None:
    assert rates(6, 4, LrSchedule.constant) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_linear_and_cosine_fall_from_the_number_to_zero_behind_the_last_step() -> None:
    assert rates(6, 2, LrSchedule.linear) == [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]
    assert rates(6, 2, LrSchedule.cosine) == pytest.approx(
        [4.0, 8.0, 8.0, 4 + 4 * 2**-0.5, 4.0, 4 - 4 * 2**-0.5]
    )


def test_a_run_that_went_on_beyond_its_steps_does_not_rise_again() -> None:
    assert learning_rate(OptimConfig(schedule=LrSchedule.cosine), 4, 9) == pytest.approx(0.0)
