"""DDPO's `ddim_step_with_logprob` (Stable Diffusion 1.x) for three predictions, two offsets and two etas.

Two differences, pinned here. With steps_offset = 0 the release's last std is 0 and its log-probability not
finite: an error here. And the release computes 1 - abar/abar' in float32, where the last step cancels to 7e-6
of its std; we do not lose that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlvis.flow import schedules
from rlvis.flow.kernel import Kernel
from rlvis.flow.logprob import draw, log_prob, reduce_positions, require_stochastic
from rlvis.flow.transition import StepTable, table, transition

DDIM = np.load(Path(__file__).parent / "data" / "ddpo_ddim.npz")
ABAR = torch.from_numpy(DDIM["alphas_cumprod"])
CASES = [name.removesuffix("_prev") for name in DDIM.files if name.endswith("_prev")]
LAST_STEP = 3e-5  # relative: twice the release's own float32 error in the last std


def latent(name: str) -> Tensor:
    return torch.from_numpy(DDIM[name]).unsqueeze(2)


def build(case: str) -> tuple[StepTable, int]:
    prediction, offset, eta = case.rsplit("_", 2)
    name: Any = prediction
    kernel = Kernel("ddim", eta=float(DDIM["etas"][int(eta[-1])]), prediction=name)
    grid = schedules.ddim(ABAR, 10, int(offset[-1]))
    assert np.array_equal(grid.time.numpy(), DDIM[f"timesteps_{offset}"])
    return table(kernel, grid, deterministic_last=False), int(offset[-1])


def release_std(timesteps: torch.Tensor, eta: float, dtype: torch.dtype) -> Tensor:
    """The DDIM std as written in DDPO's release, in a precision of our choice."""
    now, following = ABAR[timesteps].to(dtype), ABAR[(timesteps - 100).clamp(min=0)].to(dtype)
    return eta * ((1 - following) / (1 - now) * (1 - now / following)).sqrt()


@pytest.mark.parametrize("case", CASES)
def test_ddim_step(case: str) -> None:
    tab, offset = build(case)
    mean, std = transition(
        tab, torch.arange(10), torch.ones(10, dtype=torch.bool), latent("x"), latent("eps")
    )
    drawn = draw(mean, std, latent("noise"), torch.float32).squeeze(2).numpy()
    wanted = DDIM[f"{case}_prev"]
    assert np.abs(drawn.astype(float) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    rows = 10 if offset else 9
    got = reduce_positions(log_prob(latent("given")[:rows], mean[:rows], std[:rows])).numpy()
    scores = DDIM[f"{case}_logp_given"]
    bound = np.full(10, 1e-6)
    bound[9] = LAST_STEP
    np.testing.assert_array_less(
        np.abs(got - scores[:rows]), bound[:rows] * np.maximum(1, np.abs(scores[:rows]))
    )
    if not offset:
        assert not np.isfinite(scores[9])
        with pytest.raises(ValueError, match=r"steps \[9\] of 10 have std 0 under kernel=ddim"):
            require_stochastic(tab, torch.arange(10))


@pytest.mark.parametrize("eta", DDIM["etas"].tolist())
def test_the_looser_bound_is_the_release_s_own_rounding(eta: float) -> None:
    timesteps = torch.from_numpy(DDIM["timesteps_so1"])
    tab = table(
        Kernel("ddim", eta=eta, prediction="epsilon"), schedules.ddim(ABAR, 10, 1), deterministic_last=False
    )
    exact = release_std(timesteps, eta, torch.float64)
    ours = ((tab.std - exact) / exact).abs()
    theirs = ((release_std(timesteps, eta, torch.float32).double() - exact) / exact).abs()
    assert float(ours.max()) < 2e-7
    assert float(theirs[-1]) > 5e-6
    assert float(theirs[:-1].max()) < 5e-7


def test_the_last_step_of_training_lands_on_x0() -> None:
    grid = schedules.ddim(ABAR, 10, 1)
    tab = table(Kernel("ddim", eta=1.0, prediction="epsilon"), grid)
    x, eps = latent("x"), latent("eps")
    mean, std = transition(tab, torch.arange(10), torch.ones(10, dtype=torch.bool), x, eps)
    abar = ABAR[1].double()
    wanted = (x[9].double() - (1 - abar).sqrt() * eps[9].double()) / abar.sqrt()
    torch.testing.assert_close(mean[9].double(), wanted, rtol=1e-6, atol=1e-6)
    assert float(std[9]) == 0
