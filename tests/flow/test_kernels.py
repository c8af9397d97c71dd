"""Transition kernels: marginals in closed form, the rules at the first and last step, tables over random "
"grids."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis.flow import schedules
from rlvis.flow.kernel import Kernel
from rlvis.flow.transition import StepTable, table, transition
from rlvis.records import Schedule

ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
FLOW = schedules.flow_match_euler(10, 3.0)
VP = schedules.ddim(ALPHAS_CUMPROD, 10)


def gauss(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step_all(tab: StepTable, x: Tensor, out: Tensor, stochastic: bool = True) -> Any:
    rows = x.shape[0]
    return transition(tab, torch.arange(rows), torch.full((rows,), stochastic), x, out)


def grids(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """alpha, alpha_next, sigma, sigma_next in float64, alpha exact for a flow."""
    sigma, alpha = schedule.sigma.double(), schedule.alpha.double()
    if torch.equal(schedule.alpha, 1 - schedule.sigma):
        alpha = 1 - sigma
    return alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]


def point_mass(schedule: Schedule, prediction: str) -> tuple[Tensor, Tensor]:
    """(a, b) with model output = a x + b x0 per step, when all data is one point x0: eps = (x - alpha x0) "
    "/ sigma."""
    alpha, _, sigma, _ = grids(schedule)
    if prediction == "flow":
        return 1 / sigma, -alpha / sigma - 1
    if prediction == "v_prediction":
        return alpha / sigma, -(alpha.square()) / sigma - sigma
    if prediction == "epsilon":
        return 1 / sigma, -alpha / sigma
    return torch.zeros_like(sigma), torch.ones_like(sigma)


@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("name", "schedule"), [("cps", FLOW), ("ddim", VP), ("ddim", FLOW), ("cps", VP)])
def test_cps_and_ddim_keep_the_marginal_of_a_point_mass_exactly(
    name: Any, schedule: Schedule, prediction: Any
) -> None:
    if prediction == "epsilon" and schedule is FLOW:
        schedule = schedules.unipc_flow(10, 3.0)  # alpha > 0
    tab = table(Kernel(name, eta=0.7, prediction=prediction), schedule, deterministic_last=False)
    alpha, alpha_next, sigma, sigma_next = grids(schedule)
    a, b = point_mass(schedule, prediction)
    on_x, on_x0 = tab.x + tab.v * a, tab.v * b
    torch.testing.assert_close(on_x * alpha + on_x0, alpha_next, rtol=1e-9, atol=1e-9)
    variance = (on_x * sigma).square() + tab.std.square()
    torch.testing.assert_close(variance, sigma_next.square(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("noise", "eta"), [("flow", 0.7), ("dance", 0.3), ("wan", 1.0), ("flow_clipped", 0.7)]
)
def test_sde_keeps_the_mean_exactly_and_the_variance_up_to_a_known_second_order_term(
    noise: Any, eta: float
) -> None:
    tab = table(Kernel("sde", noise, eta), FLOW, deterministic_last=False)
    alpha, alpha_next, sigma, sigma_next = grids(FLOW)
    a, b = point_mass(FLOW, "flow")
    on_x, on_x0 = tab.x + tab.v * a, tab.v * b
    torch.testing.assert_close(on_x * alpha + on_x0, alpha_next, rtol=1e-10, atol=1e-10)
    # Euler-Maruyama: with A = sigma'/sigma - s^2 dt / (2 sigma^2), A^2 sigma^2 + s^2 dt exceeds sigma'^2 by
    # O(dt^2).
    dt, s2 = sigma - sigma_next, tab.s.square()
    excess = dt.square() * (s2 / sigma + s2.square() / (4 * sigma.square()))
    variance = (on_x * sigma).square() + tab.std.square()
    torch.testing.assert_close(variance, sigma_next.square() + excess, rtol=1e-10, atol=1e-10)


def test_sde_and_ode_marginals_agree_to_first_order_in_the_step() -> None:
    errors = []
    for steps in (50, 100, 200):
        grid = schedules.flow_schedule(torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64))
        tab = table(Kernel("sde", "flow", 0.7), grid, deterministic_last=False)
        a, b = point_mass(grid, "flow")
        mean, var = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.81, dtype=torch.float64)
        for t in range(steps):
            on_x = tab.x[t] + tab.v[t] * a[t]
            mean, var = on_x * mean + tab.v[t] * b[t], on_x**2 * var + tab.std[t] ** 2
        assert float(mean) == pytest.approx(0.9, abs=1e-6)
        errors.append(float(var) - 0.01)
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_published_noise_levels_of_the_first_grid() -> None:
    tab = table(Kernel("sde", "flow", 1.0), FLOW, deterministic_last=False)
    published = [5.008, 4.907, 3.247, 2.455, 1.942, 1.554, 1.230, 0.932, 0.621, 0.095]
    assert tab.s.tolist() == pytest.approx(published, abs=6e-4)
    torch.testing.assert_close(tab.std, tab.s * tab.sqrt_dt, rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["published", "current"])
def test_first_step_of_flow_noise_is_tamed_by_index_and_only_near_one(form: Any) -> None:
    grid = schedules.unipc_flow(20, 3.0, form)
    sigma = grid.sigma.double()
    tab = table(Kernel("sde", "flow", 0.7), grid)
    assert float(tab.s[0]) == pytest.approx(0.7 * math.sqrt(sigma[0] / (1 - sigma[1])), rel=1e-12)
    # All coefficients keep sigma_0 itself.
    dt = sigma[0] - sigma[1]
    assert float(tab.x[0]) == pytest.approx(float(1 - tab.s[0] ** 2 / (2 * sigma[0]) * dt), rel=1e-12)
    below = schedules.flow_schedule(torch.tensor([0.9985, 0.9, 0.5, 0.0]))
    first = below.sigma.double()[0]
    assert float(table(Kernel("sde", "flow", 1.0), below).s[0]) == pytest.approx(
        math.sqrt(first / (1 - first)), rel=1e-12
    )


def test_clipped_noise_bounds_the_one_step_std_and_changes_nothing_below_it() -> None:
    free = table(Kernel("sde", "flow", 0.7), FLOW, deterministic_last=False)
    clipped = table(Kernel("sde", "flow_clipped", 0.7), FLOW, deterministic_last=False)
    assert bool((free.std > 0.45).any())
    torch.testing.assert_close(clipped.std, free.std.clamp(max=0.45), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["sde", "cps", "ddim", "ode"])
def test_the_last_transition_lands_on_x0_without_noise(name: Any) -> None:
    schedule = VP if name == "ddim" else FLOW
    prediction: Any = "epsilon" if name == "ddim" else "flow"
    tab = table(Kernel(name, eta=0.6, prediction=prediction), schedule)
    x, out = gauss(10, 3, 1, 4, 5), gauss(10, 3, 1, 4, 5, seed=1)
    for stochastic in (True, False):
        mean, std = step_all(tab, x, out, stochastic)
        sigma, alpha = float(schedule.sigma[9]), float(schedule.alpha[9])
        x0 = (x[9] - sigma * out[9]) / (alpha if name == "ddim" else 1)
        torch.testing.assert_close(mean[9], x0, rtol=1e-6, atol=1e-6)
        assert float(std[9]) == 0
    assert float(tab.std[-1]) == 0
    assert float(tab.s[-1]) == 0


def test_eta_zero_is_the_deterministic_step() -> None:
    for name, schedule in (("sde", FLOW), ("cps", FLOW), ("ddim", VP)):
        prediction: Any = "flow" if schedule is FLOW else "epsilon"
        kernel = Kernel(name, eta=0.0, prediction=prediction)  # type: ignore[arg-type]
        tab = table(kernel, schedule)
        torch.testing.assert_close(tab.x, tab.ode_x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(tab.v, tab.ode_v, rtol=1e-12, atol=1e-12)
        assert float(tab.std.abs().max()) == 0


def test_ode_of_a_flow_is_the_euler_step() -> None:
    tab = table(Kernel("ode"), FLOW)
    torch.testing.assert_close(tab.x, torch.ones(10, dtype=torch.float64), rtol=1e-12, atol=0)
    sigma = FLOW.sigma.double()
    torch.testing.assert_close(tab.v, sigma[1:] - sigma[:-1], rtol=1e-12, atol=1e-15)


def test_stochastic_is_decided_row_by_row() -> None:
    tab = table(Kernel("sde", "dance", 0.3), FLOW)
    x, out = gauss(4, 2, 1, 3, 3), gauss(4, 2, 1, 3, 3, seed=1)
    step, stochastic = torch.tensor([5, 5, 2, 2]), torch.tensor([True, False, False, True])
    mean, std = transition(tab, step, stochastic, x, out)
    expected = [0.3 * math.sqrt(FLOW.sigma[i] - FLOW.sigma[i + 1]) for i in (5, 2)]
    assert std.flatten()[[0, 3]].tolist() == pytest.approx(expected)
    assert std.flatten()[1:3].tolist() == [0, 0]
    for row, i in ((1, 5), (2, 2)):
        dt = float(FLOW.sigma[i] - FLOW.sigma[i + 1])
        torch.testing.assert_close(mean[row], x[row] - dt * out[row], rtol=1e-6, atol=1e-6)


def test_a_row_does_not_depend_on_the_others_bit_for_bit() -> None:
    tab = table(Kernel("sde", "flow", 0.7), FLOW)
    x, out = gauss(8, 4, 2, 3, 5), gauss(8, 4, 2, 3, 5, seed=1)
    steps, on = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7]), torch.ones(8, dtype=torch.bool)
    together = transition(tab, steps, on, x, out).mean
    for i in range(8):
        row = slice(i, i + 1)
        assert torch.equal(transition(tab, steps[row], on[row], x[row], out[row]).mean, together[row])


def test_low_precision_inputs_are_computed_in_float32_and_float64_stays() -> None:
    tab = table(Kernel("sde", "flow", 0.7), FLOW)
    x, out = gauss(3, 2, 1, 4, 4).bfloat16(), gauss(3, 2, 1, 4, 4, seed=1).bfloat16()
    mean, std = step_all(tab, x, out)
    assert mean.dtype == std.dtype == torch.float32
    assert torch.equal(mean, step_all(tab, x.float(), out.float()).mean)
    assert step_all(tab, x.double(), out).mean.dtype == torch.float64


@settings(max_examples=150, deadline=None)
@given(
    steps=st.integers(1, 60),
    shift=st.floats(0.5, 12),
    eta=st.floats(0, 1),
    name=st.sampled_from(["sde", "cps", "ddim", "ode"]),
    noise=st.sampled_from(["flow", "dance", "wan", "flow_clipped"]),
    grid=st.sampled_from(["euler", "linear", "published", "current", "vp"]),
)
def test_tables_are_finite_with_nonnegative_std_and_a_quiet_end(
    steps: int, shift: float, eta: float, name: Any, noise: Any, grid: Any
) -> None:
    if grid == "vp":
        schedule = schedules.ddim(ALPHAS_CUMPROD, steps, steps_offset=steps % 2)
        name = "ddim" if name == "sde" else name
    elif grid == "euler":
        schedule = schedules.flow_match_euler(steps, shift)
    elif grid == "linear":
        schedule = schedules.shifted_linear(steps, shift)
    else:
        schedule = schedules.unipc_flow(steps, shift, grid)
    kernel = Kernel(name, noise, 1.0 if noise == "wan" else eta, "epsilon" if grid == "vp" else "flow")
    tab = table(kernel, schedule)
    for value in (tab.x, tab.v, tab.std, tab.s, tab.sqrt_dt, tab.ode_x, tab.ode_v):
        assert value.shape == (steps,)
        assert value.dtype == torch.float64
        assert bool(value.isfinite().all())
    assert bool((tab.std >= 0).all())
    assert float(tab.std[-1]) == 0
    # No rounding may leave a std above what cps and ddim take out of the next noise level.
    if name in ("cps", "ddim"):
        assert bool((tab.std <= schedule.sigma[1:].double() * (1 + 1e-12)).all())


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sampler.kernel=dpm: there are cps, ddim, ode, sde; .* MODULE\.NAME"
    ):
        Kernel("dpm")
    with pytest.raises(ValueError, match=r"got sampler.eta=0\.3; type sampler.eta=1"):
        table(Kernel("sde", "wan", 0.3), FLOW)
    with pytest.raises(ValueError, match=r"eta=1\.2 with sampler.kernel=cps: wanted at most 1"):
        Kernel("cps", eta=1.2)
    with pytest.raises(ValueError, match=r"eta=-0\.1 with sampler.kernel=sde: wanted at least 0"):
        Kernel("sde", "flow", -0.1)
    with pytest.raises(ValueError, match=r"type sampler=ddim"):
        table(Kernel("sde"), VP)
    with pytest.raises(ValueError, match=r"cannot give x0 where alpha = 0"):
        table(Kernel("ddim", eta=1.0, prediction="epsilon"), FLOW)
    sigma = torch.tensor([0.5, 0.9, 0.0])
    rising = Schedule(sigma=sigma, alpha=1 - sigma, time=torch.zeros(2))
    with pytest.raises(ValueError, match=r"sigma decreases"):
        table(Kernel("ode"), rising)
    tab = table(Kernel("ode"), FLOW)
    with pytest.raises(ValueError, match=r"x \[1, 2, 3, 3\]"):
        transition(tab, torch.tensor([0]), torch.tensor([True]), gauss(1, 2, 3, 3), gauss(1, 2, 3, 3))
