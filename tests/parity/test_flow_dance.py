"""DanceGRPO's `flux_step` on packed tokens [B,N,C], images and video, in float32 and float64."""

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
from rlvis.flow.transition import Transition, table, transition

DANCE = np.load(Path(__file__).parent / "data" / "dance_sde.npz")
GRID = schedules.shifted_linear(16, 3.0, "truncated")
FIELDS = [
    name for name in DANCE.files if "_mean_" in name or "_logp_" in name or name.endswith(("_ode", "_x0"))
]


def latent(name: str) -> Tensor:
    """Any of the three layouts as [B,C,F,H,W]; tokens become one row of positions."""
    array = torch.from_numpy(DANCE[name])
    if array.ndim == 3:
        return array.movedim(-1, 1)[:, :, None, None, :]
    return array.unsqueeze(2) if array.ndim == 4 else array


def assert_field(got: Tensor, want: NDArray[np.floating], bound: float = 1e-5) -> None:
    error = np.abs(got.numpy().reshape(want.shape).astype(float) - want).max()
    assert error <= bound * np.abs(want).max()


def assert_log_prob(got: Tensor, want: NDArray[np.floating]) -> None:
    np.testing.assert_array_less(np.abs(got.numpy() - want), 1e-6 * np.maximum(1, np.abs(want)))


def steps(case: str, eta: float, dtype: torch.dtype, stochastic: bool = True) -> list[Transition]:
    """One transition of the whole batch at each of the 16 steps."""
    tab = table(Kernel("sde", "dance", eta), GRID, deterministic_last=False)
    x, v = (latent(f"{case}_{name}").to(dtype) for name in ("x", "v"))
    on = torch.full((2,), stochastic)
    return [transition(tab, torch.full((2,), i), on, x, v) for i in range(16)]


def test_grid_and_truncated_time() -> None:
    assert np.array_equal(GRID.sigma.numpy(), DANCE["sigmas"])
    assert np.array_equal(GRID.time.numpy(), DANCE["timesteps_int"])


@pytest.mark.parametrize("name", FIELDS)
def test_field(name: str) -> None:
    case, field, *rest = name.split("_")
    double = rest[-1:] == ["f64"]
    dtype = torch.float64 if double else torch.float32
    eta = float(DANCE["etas"][int(rest[0])]) if rest else 0.3
    if field == "ode":
        assert_field(torch.stack([s.mean for s in steps(case, eta, dtype, False)]), DANCE[name])
    elif field == "x0":
        # x - sigma v, which is where our last transition lands from every step's sigma.
        x, v = latent(f"{case}_x"), latent(f"{case}_v")
        landed = [_land(float(sigma), x, v) for sigma in GRID.sigma[:-1]]
        assert_field(torch.stack(landed), DANCE[name])
    elif field == "mean":
        assert_field(
            torch.stack([s.mean for s in steps(case, eta, dtype)]), DANCE[name], 1e-10 if double else 1e-5
        )
    else:
        given = latent(f"{case}_given").to(dtype)
        got = [reduce_positions(log_prob(given, s.mean, s.std)) for s in steps(case, eta, dtype)]
        assert_log_prob(torch.stack(got), DANCE[name])


def _land(sigma: float, x: Tensor, v: Tensor) -> Tensor:
    """Our last transition from a grid that is down to one step at sigma."""
    one = table(Kernel("sde", "dance", 0.3), schedules.flow_schedule(torch.tensor([sigma, 0.0])))
    step, on = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)
    mean, std = transition(one, step, on, x, v)
    assert float(std.max()) == 0
    return mean


def test_draw() -> None:
    mean, std = steps("tok", 0.3, torch.float32)[3]
    drawn = draw(mean, std, latent("drawn_noise"), torch.float32)
    assert_field(drawn[:, :, 0, 0].movedim(1, -1).contiguous(), DANCE["drawn"])
    assert_log_prob(reduce_positions(log_prob(drawn, mean, std)), DANCE["drawn_logp"])
