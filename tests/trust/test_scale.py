"""The unit of deviations: a running standard deviation with a memory."""

import pytest
import torch

from rlvis.schema import TrustConfig, TrustScale
from rlvis.trust.groups import statistics
from rlvis.trust.scale import KEY, unit

RUNNING = TrustConfig(kind="ras", scale=TrustScale.running_std)


def groups(values, valid=None):
    t = torch.tensor(values, dtype=torch.float64)[..., None]
    return statistics(t, torch.ones(t.shape[:2], dtype=torch.bool) if valid is None else valid)


def test_raw_is_one_and_remembers_nothing():
    used, memory = unit(groups([[1.0, 5.0]]), TrustConfig(), {})
    assert (used.tolist(), memory) == ([1.0], {})


def test_a_step_uses_the_memory_before_it():
    used, memory = unit(groups([[0.0, 2.0], [0.0, 2.0]]), RUNNING, {})
    assert used.tolist() == [1.0]  # the first step its own
    assert memory[KEY].tolist() == [1.0]
    used, after = unit(groups([[0.0, 6.0], [0.0, 6.0]]), RUNNING, memory)
    assert used.tolist() == [1.0]
    assert after[KEY].item() == pytest.approx(0.9 * 1 + 0.1 * 9)
    assert unit(groups([[0.0, 6.0]]), RUNNING, after)[0].item() == pytest.approx(1.8**0.5)


def test_without_any_spread_no_deviation_is_worth_anything():
    used, memory = unit(groups([[0.7] * 12]), RUNNING, {})
    assert used.tolist() == [float("inf")]
    assert unit(groups([[0.0, 2.0]]), RUNNING, memory)[0].tolist() == [1.0]


def test_invalid_samples_and_steps_without_any_are_left_out():
    valid = torch.tensor([[True, True, False]])
    used, memory = unit(groups([[0.0, 2.0, 99.0]], valid), RUNNING, {})
    assert used.tolist() == [1.0]
    again, after = unit(groups([[0.0, 2.0, 99.0]], torch.zeros_like(valid)), RUNNING, memory)
    assert again.tolist() == [1.0]
    assert after[KEY].equal(memory[KEY])
