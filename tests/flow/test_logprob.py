"""Log-probability: against torch.distributions, gradients, moments of draws, storage in bfloat16."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.flow import schedules
from rlvis.flow.kernel import Kernel
from rlvis.flow.logprob import draw, log_prob, reduce_positions, require_stochastic
from rlvis.flow.transition import table, transition

FLOW = schedules.flow_match_euler(10, 3.0)
SHAPE = (5, 3, 2, 4, 3)


def gauss(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gaussian_agrees_with_torch_distributions(reduction: Any) -> None:
    sample, mean = gauss(*SHAPE, dtype=torch.float64), gauss(*SHAPE, seed=1, dtype=torch.float64)
    std = torch.tensor([0.02, 0.1, 0.5, 1.0, 3.0], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    full = torch.distributions.Normal(mean, std).log_prob(sample)
    wanted = full.mean(1) if reduction == "mean" else full.sum(1)
    got = log_prob(sample, mean, std, "gaussian", reduction)
    assert got.shape == (5, 2, 4, 3)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_squared_has_no_variance_and_no_constant() -> None:
    sample, mean = gauss(*SHAPE), gauss(*SHAPE, seed=1)
    got = log_prob(sample, mean, torch.zeros(5, 1, 1, 1, 1), "squared")
    torch.testing.assert_close(got, -((sample - mean) ** 2).mean(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "kernel", [Kernel("sde", "flow", 0.7), Kernel("cps", eta=0.8), Kernel("sde", "dance", 0.3)]
)
@pytest.mark.parametrize("form", ["gaussian", "squared"])
def test_gradient_through_transition_and_log_prob(kernel: Kernel, form: Any) -> None:
    tab = table(kernel, FLOW)
    shape = (3, 2, 1, 2, 2)
    x, sample = gauss(*shape, dtype=torch.float64), gauss(*shape, seed=1, dtype=torch.float64)
    out = gauss(*shape, seed=2, dtype=torch.float64).requires_grad_()
    step, on = torch.tensor([1, 4, 7]), torch.ones(3, dtype=torch.bool)

    def score(out: Tensor) -> Tensor:
        mean, std = transition(tab, step, on, x, out)
        return log_prob(sample, mean, std, form, "mean")

    assert torch.autograd.gradcheck(score, (out,))


def test_the_sample_is_detached_and_the_mean_is_not() -> None:
    sample, mean = gauss(*SHAPE).requires_grad_(), gauss(*SHAPE, seed=1).requires_grad_()
    log_prob(sample, mean, torch.ones(5, 1, 1, 1, 1)).sum().backward()
    assert sample.grad is None
    assert mean.grad is not None
    assert float(mean.grad.abs().max()) > 0
    assert not draw(mean, torch.ones(5, 1, 1, 1, 1), gauss(*SHAPE), torch.float32).requires_grad


def test_expected_gradient_of_the_log_probability_is_zero() -> None:
    """E[d log p / d mean] = 0: 20k draws, a bound of 5 standard errors of 1 / (std sqrt(n))."""
    mean = torch.full((20_000, 1, 1, 1, 1), 0.3, requires_grad=True)
    std = torch.full((20_000, 1, 1, 1, 1), 0.5)
    sample = draw(mean, std, gauss(20_000, 1, 1, 1, 1), torch.float32)
    log_prob(sample, mean, std).sum().backward()
    assert mean.grad is not None
    assert abs(float(mean.grad.mean())) < 5 / (0.5 * math.sqrt(20_000))


@pytest.mark.parametrize(
    "kernel", [Kernel("sde", "flow", 0.7), Kernel("cps", eta=0.8), Kernel("ddim", eta=1.0)]
)
def test_moments_of_draws_and_entropy(kernel: Kernel) -> None:
    """20k draws of one transition: mean, std and entropy in closed form, within 5 standard errors."""
    n, t, x, v = 20_000, 4, 0.8, -0.5
    step, on, ones = torch.full((n,), t), torch.ones(n, dtype=torch.bool), torch.ones(n, 1, 1, 1, 1)
    tab = table(kernel, FLOW)
    mean, std = transition(tab, step, on, ones * x, ones * v)
    sample = draw(mean, std, gauss(n, 1, 1, 1, 1, seed=3), torch.float32)
    expected, spread = float(tab.x[t] * x + tab.v[t] * v), float(tab.std[t])
    assert float(sample.mean()) == pytest.approx(expected, abs=5 * spread / math.sqrt(n))
    assert float(sample.std()) == pytest.approx(spread, abs=5 * spread / math.sqrt(2 * n))
    entropy = 0.5 * math.log(2 * math.pi * math.e * spread**2)
    assert float(log_prob(sample, mean, std).mean()) == pytest.approx(-entropy, abs=5 * math.sqrt(0.5 / n))


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("form", ["gaussian", "squared"])
def test_recomputed_log_probability_is_equal_bit_for_bit(storage: torch.dtype, form: Any) -> None:
    tab = table(Kernel("sde", "flow", 0.7), FLOW)
    step, on = torch.tensor([0, 3, 5, 7, 8]), torch.ones(5, dtype=torch.bool)
    x, out = gauss(*SHAPE).to(storage), gauss(*SHAPE, seed=1).to(storage)
    mean, std = transition(tab, step, on, x, out)
    sample = draw(mean, std, gauss(*SHAPE, seed=2), storage)
    assert sample.dtype == storage
    old = log_prob(sample, mean, std, form)
    # The update reads the stored states, in another order, and runs the same two functions.
    order = torch.tensor([4, 2, 0, 1, 3])
    again = transition(tab, step[order], on, x[order], out[order].clone().requires_grad_())
    new = log_prob(sample[order], again.mean, again.std, form)
    assert torch.equal((new.detach() - old[order]).exp(), torch.ones_like(old))
    if storage != torch.float32:
        unrounded = log_prob(mean + std * gauss(*SHAPE, seed=2), mean, std, form)
        assert not torch.equal(unrounded, old)


def test_reduce_positions_means_over_the_free_ones_only() -> None:
    logp = gauss(3, 2, 4, 5).requires_grad_()
    assert torch.equal(reduce_positions(logp), logp.mean((1, 2, 3)))
    torch.testing.assert_close(reduce_positions(logp, torch.ones(2, 4, 5)), reduce_positions(logp))
    free = torch.zeros(2, 4, 5)
    free[1] = 1
    got = reduce_positions(logp, free)
    torch.testing.assert_close(got, logp[:, 1].mean((1, 2)))
    got.sum().backward()
    assert logp.grad is not None
    assert float(logp.grad[:, 0].abs().max()) == 0
    spoiled = logp.detach().clone()
    spoiled[:, 0] = math.nan
    torch.testing.assert_close(reduce_positions(spoiled, free), got.detach())


def test_deterministic_transitions_have_no_log_probability() -> None:
    tab = table(Kernel("sde", "flow", 0.7), FLOW)
    require_stochastic(tab, torch.tensor([[0, 3], [8, 1]]))
    with pytest.raises(ValueError, match=r"steps \[9\] of 10 .*kernel=sde, eta=0\.7.* that adds noise"):
        require_stochastic(tab, torch.tensor([8, 9]))
    with pytest.raises(ValueError, match=r"steps \[0, 2\] of 10 have std 0 under kernel=ode"):
        require_stochastic(table(Kernel("ode"), FLOW), torch.tensor([2, 0, 2]))
    with pytest.raises(ValueError, match=r"rows \[1\] have std 0.*no log-probability"):
        log_prob(gauss(2, 1, 1, 2, 2), gauss(2, 1, 1, 2, 2), torch.tensor([0.5, 0.0]).view(2, 1, 1, 1, 1))


def test_wrong_arguments_are_refused_with_their_shapes() -> None:
    one, std = gauss(2, 1, 1, 2, 2), torch.ones(2, 1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"std \[2\]"):
        log_prob(one, one, torch.ones(2))
    with pytest.raises(ValueError, match=r"'gaussian' or 'squared', got 'laplace'"):
        log_prob(one, one, std, "laplace")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'mean' or 'sum', got 'max'"):
        log_prob(one, one, std, "gaussian", "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"float dtype, got torch\.uint8"):
        draw(one, std, one, torch.uint8)
    with pytest.raises(ValueError, match=r"free wants shape \[1, 2, 2\]"):
        reduce_positions(gauss(2, 1, 2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"moves no position"):
        reduce_positions(gauss(2, 1, 2, 2), torch.zeros(1, 2, 2))
