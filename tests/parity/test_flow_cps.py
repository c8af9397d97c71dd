"""Flow-CPS: flow_grpo's `sde_type='cps'` and the authors' own repository, which agree."""

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
from rlvis.flow.transition import table, transition

CPS = np.load(Path(__file__).parent / "data" / "flow_cps.npz")


def latent(name: str) -> Tensor:
    return torch.from_numpy(CPS[name]).unsqueeze(2)


def assert_field(got: Tensor, want: NDArray[np.floating]) -> None:
    error = np.abs(got.numpy().reshape(want.shape).astype(float) - want).max()
    assert error <= 1e-5 * np.abs(want).max()


def assert_log_prob(got: Tensor, want: NDArray[np.floating]) -> None:
    np.testing.assert_array_less(np.abs(got.numpy() - want), 1e-6 * np.maximum(1, np.abs(want)))


@pytest.mark.parametrize(("k", "level"), list(enumerate(CPS["noise_levels"].tolist())))
def test_cps_step(k: int, level: float) -> None:
    grid = schedules.flow_match_euler(10, 3.0)
    assert np.array_equal(grid.sigma.numpy(), CPS["sigmas"])
    tab = table(Kernel("cps", eta=level), grid, deterministic_last=False)
    mean, std = transition(tab, torch.arange(10), torch.ones(10, dtype=torch.bool), latent("x"), latent("v"))
    assert_field(mean, CPS[f"mean_{k}"])
    assert_field(tab.std, CPS[f"std_{k}"])
    given = reduce_positions(log_prob(latent("given"), mean, std, "squared"))
    assert_log_prob(given, CPS[f"logp_given_{k}"])
    assert_log_prob(given, CPS[f"flowcps_logp_given_{k}"])
    drawn = draw(mean, std, latent("noise"), torch.float32)
    assert_field(drawn, CPS[f"drawn_{k}"])
    assert_log_prob(reduce_positions(log_prob(drawn, mean, std, "squared")), CPS[f"logp_drawn_{k}"])


def test_the_published_last_step_is_already_ours() -> None:
    grid = schedules.flow_match_euler(10, 3.0)
    ours, theirs = (table(Kernel("cps", eta=0.8), grid, deterministic_last=last) for last in (True, False))
    assert torch.equal(ours.std, theirs.std)
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.v, theirs.v, rtol=1e-12, atol=0)
