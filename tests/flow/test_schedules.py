"""Sigma grids against their closed forms, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.flow import schedules

ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


def test_shifted_linear_is_the_rational_shift_of_a_line() -> None:
    grid = schedules.shifted_linear(4, 3.0)
    expected = [1, 3 * 0.75 / (1 + 2 * 0.75), 0.75, 3 * 0.25 / 1.5, 0]
    assert grid.sigma.tolist() == pytest.approx(expected, abs=1e-7)
    assert torch.equal(grid.alpha, 1 - grid.sigma)
    assert torch.equal(grid.time, grid.sigma[:-1] * 1000)


def test_truncated_time_drops_the_fraction_instead_of_rounding() -> None:
    grid = schedules.shifted_linear(16, 3.0, "truncated")
    assert float(grid.sigma[10]) * 1000 == pytest.approx(642.857, abs=1e-3)
    assert float(grid.time[10]) == 642


def test_sd3_grid_ends_at_the_twice_shifted_last_training_sigma() -> None:
    once = 3 * 0.001 / (1 + 2 * 0.001)
    twice = 3 * once / (1 + 2 * once)
    grid = schedules.flow_match_euler(10, 3.0)
    assert float(grid.sigma[-2]) == pytest.approx(twice, rel=1e-6)
    assert float(grid.sigma[0]) == 1
    assert float(grid.sigma[-1]) == 0


def test_dynamic_shift_with_mu_zero_is_a_line_and_mu_follows_the_resolution() -> None:
    assert schedules.flow_match_dynamic(4, 0.0).sigma.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert schedules.flux_mu(1024) == pytest.approx(0.63)
    assert schedules.flux_mu(4096) == pytest.approx(1.15)
    middle = math.exp(1.15) / (math.exp(1.15) + 1)
    assert float(schedules.flow_match_dynamic(2, 1.15).sigma[1]) == pytest.approx(middle, rel=1e-6)


def test_a_terminal_value_stretches_the_grid_and_leaves_its_start() -> None:
    plain, stretched = (schedules.flow_match_dynamic(5, 0.6, terminal=t) for t in (None, 0.02))
    assert float(stretched.sigma[0]) == 1
    assert float(stretched.sigma[-2]) == pytest.approx(0.02, abs=1e-6)
    ratio = (1 - stretched.sigma[1:-1]) / (1 - plain.sigma[1:-1])
    assert ratio.tolist() == pytest.approx([float(ratio[0])] * 4, rel=1e-5)
    assert schedules.flow_match_dynamic(1, 0.6, terminal=0.02).sigma.tolist() == [1, 0]


def test_a_line_under_the_rational_shift_is_the_dynamic_grid_at_its_logarithm() -> None:
    line, dynamic = schedules.flow_match_line(7, 3.0), schedules.flow_match_dynamic(7, math.log(3.0))
    assert torch.allclose(line.sigma, dynamic.sigma, rtol=0, atol=1e-6)
    assert float(schedules.flow_match_line(2, 3.0).sigma[1]) == 0.75


def test_flux2_mu_is_a_line_over_steps_up_to_4300_tokens() -> None:
    at = [schedules.flux2_mu(1024, steps) for steps in (10, 105, 200)]
    assert at[0] == pytest.approx(8.73809524e-05 * 1024 + 1.89833333)
    assert at[1] == pytest.approx((at[0] + at[2]) / 2)
    assert at[2] == pytest.approx(0.00016927 * 1024 + 0.45666666)
    assert schedules.flux2_mu(5000, 10) == schedules.flux2_mu(5000, 50)


def test_unipc_forms_start_below_one_by_the_published_amounts() -> None:
    published, current = (schedules.unipc_flow(20, 3.0, form) for form in ("published", "current"))
    assert float(published.sigma[0]) == pytest.approx(2.997 / 2.998, abs=1e-7)
    assert float(current.sigma[0]) == pytest.approx(1 - 1e-6, abs=1e-7)


def test_unipc_integer_time_comes_from_the_grid_before_it_is_rounded() -> None:
    # sigma is 333.99999999999996e-3 in float64 and the scheduler truncates that; in float32 it rounds to 334.
    assert schedules.unipc_flow(3, 1.0, "current").time.tolist()[2] == 333


def test_ddim_uses_leading_timesteps_and_never_leaves_timestep_zero() -> None:
    grid = schedules.ddim(ALPHAS_CUMPROD, 10, steps_offset=1)
    assert grid.time.tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    abar = ALPHAS_CUMPROD.double()[[901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]]
    assert torch.equal(grid.alpha, abar.sqrt().float())
    assert torch.equal(grid.sigma, (1 - abar).sqrt().float())
    without = schedules.ddim(ALPHAS_CUMPROD, 10, steps_offset=0)
    assert float(without.sigma[-1]) == float(without.sigma[-2])


def test_ddim_trailing_starts_at_the_last_timestep_even_where_it_is_pure_noise() -> None:
    grid = schedules.ddim(ALPHAS_CUMPROD, 10, spacing="trailing")
    assert grid.time.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    pure = ALPHAS_CUMPROD.clone()
    pure[-1] = 0
    grid = schedules.ddim(pure, 10, spacing="trailing")
    assert (float(grid.alpha[0]), float(grid.sigma[0])) == (0, 1)
    assert float(grid.alpha[-1]) == float(pure[0].double().sqrt().float())
    with pytest.raises(ValueError, match=r"30 steps do not divide 1000; take 25"):
        schedules.ddim(pure, 30, spacing="trailing")
    with pytest.raises(ValueError, match=r"'leading' or 'trailing', got 'linspace'"):
        schedules.ddim(pure, 10, spacing="linspace")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 100),
    shift=st.floats(0.3, 15),
    kind=st.sampled_from(["euler", "linear", "published", "current", "dynamic"]),
)
def test_every_flow_grid_decreases_from_at_most_one_to_zero(steps: int, shift: float, kind: str) -> None:
    if kind == "euler":
        grid = schedules.flow_match_euler(steps, shift)
    elif kind == "linear":
        grid = schedules.shifted_linear(steps, shift)
    elif kind == "dynamic":
        grid = schedules.flow_match_dynamic(steps, math.log(shift))
    else:
        grid = schedules.unipc_flow(steps, shift, kind)  # type: ignore[arg-type]
    assert grid.steps == steps
    assert bool((grid.sigma[:-1] > grid.sigma[1:]).all())
    assert float(grid.sigma[-1]) == 0
    assert 0 < float(grid.sigma[0]) <= 1
    assert bool((grid.time <= 1000).all())


def test_what_is_not_a_grid_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match=r"at least 1 step, got 0"):
        schedules.shifted_linear(0, 3.0)
    with pytest.raises(ValueError, match=r"must be positive .* got 0"):
        schedules.flow_match_euler(10, 0.0)
    with pytest.raises(ValueError, match=r"decreases strictly"):
        schedules.flow_schedule(torch.tensor([1.0, 0.5, 0.5, 0.0]))
    with pytest.raises(ValueError, match=r"'scaled' or 'truncated', got 'rounded'"):
        schedules.shifted_linear(4, 3.0, "rounded")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be in 1\.\.1000"):
        schedules.ddim(ALPHAS_CUMPROD, 1001)
    with pytest.raises(ValueError, match=r"would be 1000 of 0\.\.999"):
        schedules.ddim(ALPHAS_CUMPROD, 1000, steps_offset=1)
