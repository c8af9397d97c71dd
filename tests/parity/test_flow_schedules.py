"""Sigma grids and model times bit for bit, and the noise level of the flow SDE on each of them.

One difference, pinned here: the release tests `sigma == 1` for its first step, which never holds on UniPC
grids, and takes a noise level of 54.7 or 993 times eta there. Ours is decided by the step's index.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rlvis.flow import schedules
from rlvis.flow.kernel import Kernel
from rlvis.flow.transition import table
from rlvis.records import Schedule

TABLES = np.load(Path(__file__).parent / "data" / "sigma_tables.npz")


def strength(grid: Schedule) -> np.ndarray:
    return table(Kernel("sde", "flow", 1.0), grid, deterministic_last=False).s.numpy()


@pytest.mark.parametrize("steps", [10, 40])
def test_sd3(steps: int) -> None:
    grid = schedules.flow_match_euler(steps, 3.0)
    assert np.array_equal(grid.sigma.numpy(), TABLES[f"sd3_{steps}_sigmas"])
    assert np.array_equal(grid.time.numpy(), TABLES[f"sd3_{steps}_timesteps"])
    np.testing.assert_allclose(strength(grid), TABLES[f"flow_std_sd3_{steps}"], rtol=1e-6)


@pytest.mark.parametrize(("side", "tokens"), [(512, 1024), (1024, 4096)])
@pytest.mark.parametrize("steps", [6, 28])
def test_flux(side: int, tokens: int, steps: int) -> None:
    mu = schedules.flux_mu(tokens)
    assert mu == float(TABLES[f"flux_{side}_mu"])
    grid = schedules.flow_match_dynamic(steps, mu)
    assert np.array_equal(grid.sigma.numpy(), TABLES[f"flux_{side}_{steps}_sigmas"])
    np.testing.assert_allclose(strength(grid), TABLES[f"flow_std_flux_{side}_{steps}"], rtol=1e-6)


@pytest.mark.parametrize(("shift", "steps"), [(3, 16), (5, 16), (7, 16), (3, 20), (8, 16), (3, 25)])
def test_dance(shift: int, steps: int) -> None:
    grid = schedules.shifted_linear(steps, shift, "truncated")
    assert np.array_equal(grid.sigma.numpy(), TABLES[f"dance_s{shift}_n{steps}_sigmas"])
    assert np.array_equal(grid.time.numpy(), TABLES[f"dance_s{shift}_n{steps}_t"])


@pytest.mark.parametrize(
    ("form", "name", "wild"), [("published", "wan", 54.7455), ("current", "wan_new", 993.425)]
)
@pytest.mark.parametrize("steps", [20, 50])
def test_wan(form: str, name: str, wild: float, steps: int) -> None:
    grid = schedules.unipc_flow(steps, 3.0, form)  # type: ignore[arg-type]
    assert np.array_equal(grid.sigma.numpy(), TABLES[f"{name}_{steps}_sigmas"])
    assert np.array_equal(grid.time.numpy(), TABLES[f"{name}_{steps}_timesteps"])
    released = TABLES[f"{name}_std1_{steps}"]
    ours = strength(grid)
    np.testing.assert_allclose(ours[1:], released[1:], rtol=1e-6)
    assert released[0] == pytest.approx(wild, rel=1e-4)
    first, second = grid.sigma.double()[:2].tolist()
    assert ours[0] == pytest.approx(math.sqrt(first / (1 - second)), rel=1e-12)
    assert ours[0] < 13
