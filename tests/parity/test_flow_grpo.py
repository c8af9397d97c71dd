"""Flow-GRPO's SDE step on the SD3 grid and on Wan's, against the released functions.

We differ where the release has a defect, and only there: on UniPC grids its test `sigma == 1` never fires
(see test_flow_schedules.py), and it scores a deterministic Wan step against the SDE's density, which we
refuse.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvis.flow import schedules
from rlvis.flow.kernel import Kernel
from rlvis.flow.logprob import draw, log_prob, reduce_positions
from rlvis.flow.transition import StepTable, Transition, table, transition

DATA = Path(__file__).parent / "data"
SDE = np.load(DATA / "flow_grpo_sde.npz")
WAN = np.load(DATA / "flow_grpo_wan.npz")
LEVELS = list(enumerate(SDE["noise_levels"].tolist()))


def latent(array: NDArray[np.floating]) -> Tensor:
    """[T,C,H,W] or [T,C,F,H,W] as [T,C,F,H,W]."""
    result = torch.from_numpy(array)
    return result.unsqueeze(2) if result.ndim == 4 else result


def every_step(tab: StepTable, x: Tensor, out: Tensor, stochastic: bool = True) -> Transition:
    return transition(tab, torch.arange(tab.steps), torch.full((tab.steps,), stochastic), x, out)


def assert_field(got: Tensor, want: NDArray[np.floating], bound: float = 1e-5) -> None:
    wanted = torch.from_numpy(want).double()
    error = float((got.detach().double().reshape(wanted.shape) - wanted).abs().max())
    assert error <= bound * float(wanted.abs().max())


def assert_log_prob(got: Tensor, want: NDArray[np.floating]) -> None:
    np.testing.assert_array_less(np.abs(got.detach().numpy() - want), 1e-6 * np.maximum(1, np.abs(want)))


def published(level: float) -> StepTable:
    return table(Kernel("sde", "flow", level), schedules.flow_match_euler(10, 3.0), deterministic_last=False)


def test_grid() -> None:
    grid = schedules.flow_match_euler(10, 3.0)
    assert np.array_equal(grid.sigma.numpy(), SDE["sigmas"])
    assert np.array_equal(grid.time.numpy(), SDE["timesteps"])


@pytest.mark.parametrize(("k", "level"), LEVELS)
def test_image_step(k: int, level: float) -> None:
    tab = published(level)
    mean, std = every_step(tab, latent(SDE["img_x"]), latent(SDE["img_v"]))
    assert_field(mean, SDE[f"img_mean_{k}"])
    assert_field(tab.s, SDE[f"img_std_{k}"])
    assert_field(tab.sqrt_dt, SDE["img_sqrtdt"])
    given = log_prob(latent(SDE["img_given"]), mean, std)
    assert_log_prob(reduce_positions(given), SDE[f"img_logp_given_{k}"])
    drawn = draw(mean, std, latent(SDE["img_noise"]), torch.float32)
    assert_log_prob(reduce_positions(log_prob(drawn, mean, std)), SDE[f"img_logp_drawn_{k}"])
    if k == 1:
        assert_field(drawn, SDE["img_drawn_1"])


def test_video_step() -> None:
    tab = published(LEVELS[1][1])
    mean, std = every_step(tab, latent(SDE["vid_x"]), latent(SDE["vid_v"]))
    assert_field(mean, SDE["vid_mean_1"])
    assert_field(tab.s, SDE["vid_std_1"])
    assert_log_prob(reduce_positions(log_prob(latent(SDE["vid_given"]), mean, std)), SDE["vid_logp_given_1"])


@pytest.mark.parametrize("case", ["img", "vid"])
def test_double_precision(case: str) -> None:
    tab = published(LEVELS[1][1])
    x, v, given = (latent(SDE[f"{case}_{name}"]).double() for name in ("x", "v", "given"))
    mean, std = every_step(tab, x, v)
    assert_field(mean, SDE[f"{case}_mean_1_f64"], 1e-10)
    if case == "img":
        assert_field(tab.s, SDE["img_std_1_f64"], 1e-10)
        # The release scores in float32 even here: 1.6e-8 remains.
        assert_log_prob(reduce_positions(log_prob(given, mean, std)), SDE["img_logp_given_1_f64"])


@pytest.mark.parametrize("case", ["img", "vid"])
def test_gradient_reaches_the_model_output_through_the_mean_only(case: str) -> None:
    tab = published(LEVELS[1][1])
    v = latent(SDE[f"{case}_v"]).clone().requires_grad_()
    given = latent(SDE[f"{case}_given"]).clone().requires_grad_()
    mean, std = every_step(tab, latent(SDE[f"{case}_x"]), v)
    reduce_positions(log_prob(given, mean, std)).sum().backward()
    assert given.grad is None
    assert v.grad is not None
    assert_field(v.grad, SDE[f"grad_v_{case}"])


def test_our_last_step_is_deterministic_where_the_release_adds_noise() -> None:
    x, v = latent(SDE["img_x"]), latent(SDE["img_v"])
    tab = table(Kernel("sde", "flow", 0.7), schedules.flow_match_euler(10, 3.0))
    mean, std = every_step(tab, x, v)
    assert float(std[-1]) == 0
    assert SDE["img_std_1"][-1] * SDE["img_sqrtdt"][-1] == pytest.approx(0.00628, abs=1e-5)
    torch.testing.assert_close(mean[-1], x[-1] - float(SDE["sigmas"][-2]) * v[-1], rtol=1e-6, atol=1e-6)
    assert_field(mean[:-1], SDE["img_mean_1"][:-1])


def test_wan_step() -> None:
    grid = schedules.unipc_flow(20, 3.0, "published")
    assert np.array_equal(grid.sigma.numpy(), WAN["sigmas"])
    assert np.array_equal(grid.time.numpy(), WAN["timesteps"])
    tab = table(Kernel("sde", "wan", 1.0), grid, deterministic_last=False)
    mean, std = every_step(tab, latent(WAN["x"]), latent(WAN["v"]))
    assert_field(mean, WAN["mean"])
    assert_field(tab.s, WAN["std"])
    assert_field(tab.sqrt_dt, WAN["sqrtdt"])
    assert_field(std, WAN["std_times_sqrtdt"].reshape(-1))
    assert_log_prob(reduce_positions(log_prob(latent(WAN["given"]), mean, std)), WAN["logp_given"])
    drawn = draw(mean, std, latent(WAN["noise"]), torch.float32)
    assert_field(drawn, WAN["drawn"])
    assert_log_prob(reduce_positions(log_prob(drawn, mean, std)), WAN["logp_drawn"])


def test_wan_deterministic_step_agrees_and_its_log_probability_is_refused() -> None:
    tab = table(
        Kernel("sde", "wan", 1.0), schedules.unipc_flow(20, 3.0, "published"), deterministic_last=False
    )
    x, v = latent(WAN["x"]), latent(WAN["v"])
    quiet = every_step(tab, x, v, stochastic=False)
    assert_field(quiet.mean, WAN["det"])
    # The release scores this state against the SDE's density; the number is reproduced, but only on purpose.
    noisy = every_step(tab, x, v)
    assert_log_prob(reduce_positions(log_prob(quiet.mean, noisy.mean, noisy.std)), WAN["logp_det"])
    with pytest.raises(ValueError, match=r"no log-probability"):
        log_prob(quiet.mean, quiet.mean, quiet.std)


def test_current_diffusers_gives_another_wan_grid() -> None:
    grid = schedules.unipc_flow(20, 3.0, "current")
    assert np.array_equal(grid.sigma.numpy(), WAN["new_sigmas"])
    assert np.array_equal(grid.time.numpy(), WAN["new_timesteps"])
