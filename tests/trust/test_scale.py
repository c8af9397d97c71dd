"""The unit of deviations: a running standard deviation with a memory."""

from dataclasses import replace

import pytest
import torch

from rlvis.records import PriorState
from rlvis.schema import PosteriorConfig, PriorConfig, TrustConfig, TrustScale
from rlvis.trust.groups import statistics
from rlvis.trust.scale import KEY, unit
from tests.trust.cases import AVERAGE, CONSTANT, EXP, ran, rewards

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


def test_rounding_is_no_spread():
    used, memory = unit(groups([[0.1 + 0.2, 0.3, 0.3, 0.3]]), RUNNING, {})
    assert used.tolist() == [float("inf")]
    assert memory[KEY].tolist() == [0.0]


@pytest.mark.parametrize("prior", [CONSTANT, AVERAGE, PriorConfig(kind="hierarchical")], ids=lambda p: p.kind)
@pytest.mark.parametrize(
    "trust",
    [
        RUNNING,
        TrustConfig(kind="posterior", posterior=PosteriorConfig(w_min=0.2, w_max=3.0)),
        TrustConfig(kind="agreement"),
        TrustConfig(kind="tests.trust.test_scale.half"),
    ],
    ids=["ras", "posterior", "agreement", "own"],
)
def test_an_infinite_unit_gives_weight_one_and_no_contrast(trust, prior):
    """Two steps whose rewards differ from the prior, and from step to step, but never from one another."""
    state = PriorState(kind=prior.kind)
    for value in (0.7, 0.9):
        trust = replace(trust, scale=TrustScale.running_std, crt=EXP)
        judged, state = ran(rewards([[value] * 3] * 2), trust, prior, state)
        assert judged.weight.eq(1).all()
        assert judged.contrast_share.eq(0).all()
        assert all(value.isfinite().all() for value in state.values.values())
    judged, state = ran(rewards([[0.8, 1.0, 0.9]] * 2), trust, prior, state)  # and then there is a unit
    again, _ = ran(rewards([[0.8, 1.0, 0.9]] * 2), trust, prior, state)
    assert again.weight.isfinite().all()
    assert again.contrast_share.gt(0.99).all()


def half(groups, anchor, unit):
    """A trust of the user's that does not look at the unit."""
    return torch.full_like(groups.mean, 0.5)
