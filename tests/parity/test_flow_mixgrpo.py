"""MixGRPO: its SDE steps on packed tokens, and its sliding window as a function of the iteration.

Three differences, each pinned here: the release drops the constants of its Dance log-probability, scores
deterministic steps against the SDE's density, and visits an empty window (start 23 of 23), which is an error
here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvis.flow import schedules, windows
from rlvis.flow.kernel import Kernel
from rlvis.flow.logprob import log_prob, reduce_positions
from rlvis.flow.progressive import first_empty
from rlvis.flow.transition import Transition, table, transition

MIX = np.load(Path(__file__).parent / "data" / "mixgrpo.npz")
GRID = schedules.shifted_linear(25, 3.0)
FLOW = table(Kernel("sde", "flow", 0.7), GRID, deterministic_last=False)
DANCE = table(Kernel("sde", "dance", 0.3), GRID, deterministic_last=False)

# Iterations, and the arguments with which the release's state machine was run.
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "prog": (650, {"stride": 1, "iters_per_group": 25}),
    "clip": (40, {"stride": 4, "iters_per_group": 2, "roll_back": False}),
    "decay": (200, {"stride": 1, "iters_per_group": 25, "decay": "linear"}),
    "expdecay": (300, {"stride": 1, "iters_per_group": 10, "decay": "exponential"}),
}


def tokens(name: str) -> Tensor:
    """[B,N,C] as [B,C,1,1,N]."""
    return torch.from_numpy(MIX[name]).movedim(-1, 1)[:, :, None, None, :]


def every_step(tab: Any, stochastic: bool = True) -> list[Transition]:
    on = torch.full((2,), stochastic)
    return [transition(tab, torch.full((2,), i), on, tokens("x"), tokens("v")) for i in range(25)]


def assert_means(got: list[Tensor], want: NDArray[np.floating]) -> None:
    back = torch.stack(got)[:, :, :, 0, 0].movedim(2, -1).numpy()
    assert np.abs(back.astype(float) - want).max() <= 1e-5 * np.abs(want).max()


def assert_log_probs(got: list[Tensor], want: NDArray[np.floating]) -> None:
    np.testing.assert_array_less(np.abs(torch.stack(got).numpy() - want), 1e-6 * np.maximum(1, np.abs(want)))


def test_flow_step_whose_published_std_includes_sqrt_dt() -> None:
    assert np.array_equal(GRID.sigma.numpy(), MIX["sigmas"])
    taken_steps = every_step(FLOW)
    assert_means([s.mean for s in taken_steps], MIX["flow_mean"])
    assert np.abs(FLOW.std.numpy() - MIX["flow_std"]).max() <= 1e-5 * MIX["flow_std"].max()
    scored = [reduce_positions(log_prob(tokens("given"), s.mean, s.std)) for s in taken_steps]
    assert_log_probs(scored, MIX["flow_logp"])


def test_deterministic_step_and_its_published_score() -> None:
    quiet, noisy = every_step(FLOW, False), every_step(FLOW)
    assert_means([s.mean for s in quiet], MIX["flow_det"])
    scored = [reduce_positions(log_prob(q.mean, s.mean, s.std)) for q, s in zip(quiet, noisy, strict=True)]
    assert_log_probs(scored, MIX["flow_det_logp"])
    with pytest.raises(ValueError, match=r"no log-probability"):
        log_prob(quiet[0].mean, quiet[0].mean, quiet[0].std)


def test_dance_step_whose_published_log_probability_lacks_the_constants() -> None:
    taken_steps = every_step(DANCE)
    assert_means([s.mean for s in taken_steps], MIX["dance_mean"])
    ours = [reduce_positions(log_prob(tokens("given"), s.mean, s.std)) for s in taken_steps]
    constants = [s.std.flatten().log() + 0.5 * math.log(2 * math.pi) for s in taken_steps]
    assert_log_probs([a + b for a, b in zip(ours, constants, strict=True)], MIX["dance_logp_published"])
    assert float((ours[3] - torch.from_numpy(MIX["dance_logp_published"][3])).abs().min()) > 1


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_window_follows_the_published_state_machine(name: str) -> None:
    iterations, arguments = PUBLISHED[name]
    low, high = MIX[f"win_{name}_lo"], MIX[f"win_{name}_hi"]
    assert len(low) == iterations
    empty = []
    for i in range(iterations):
        if low[i] == high[i]:
            empty.append(i)
            with pytest.raises(ValueError, match=rf"empty at iteration {i}: .* transition 23 of 23"):
                windows.progressive(25, i, size=4, **arguments)
            continue
        window = windows.progressive(25, i, size=4, **arguments)
        assert window.trained.tolist() == list(range(low[i], high[i]))
        assert window.stochastic.nonzero()[0].tolist() == window.trained.tolist()
    first = first_empty(25, iterations, size=4, **arguments)
    assert first == (empty[0] if empty else None)
    assert {"prog": 575, "clip": 12, "decay": None, "expdecay": 202}[name] == first


def test_random_window_draws_the_published_starts() -> None:
    # The release starts at 0 and, after iteration i, draws the next start from seed i.
    published = MIX["win_rand_lo"]
    assert published[0] == 0
    for i in range(1, 40):
        window = windows.random_window(25, 4, np.random.default_rng(i - 1), low=0, high=23)
        assert window.trained.tolist() == list(range(published[i], published[i] + 4))
