"""Trust `none`: weights of one per objective, the state untouched, names of what exists in errors."""

import pytest
import torch

from rlvis.records import PriorState, Rewards
from rlvis.schema import Combine, PriorConfig, TrustConfig
from rlvis.trust.stage import weigh

STATE = PriorState(kind="none")


def rewards():
    return Rewards(
        term=torch.randn(3, 4, 2, dtype=torch.float64),
        names=("a", "b"),
        weights=(1.0, 1.0),
        valid=torch.ones(3, 4, dtype=torch.bool),
        latency=(0.0, 0.0),
    )


@pytest.mark.parametrize(
    ("combine", "q"), [(Combine.weighted_sum, 1), (Combine.gdpo, 2), (Combine.separate_terms, 2)]
)
def test_every_objective_is_trusted_alike(combine, q):
    trust, state = weigh(rewards(), STATE, TrustConfig(), PriorConfig(), combine)
    assert trust.weight.shape == (3, q)
    assert trust.weight.eq(1).all()
    assert trust.contrast is None
    assert state is STATE


@pytest.mark.parametrize(
    ("trust", "prior", "message"),
    [
        (TrustConfig("ras2"), PriorConfig(), "trust.kind='ras2' does not exist; these do: none"),
        (TrustConfig(), PriorConfig("guess"), "prior.kind='guess' does not exist; these do: none"),
    ],
)
def test_unknown_kinds_are_errors(trust, prior, message):
    with pytest.raises(ValueError, match=message):
        weigh(rewards(), STATE, trust, prior, Combine.weighted_sum)


def test_a_state_of_another_prior_is_an_error():
    with pytest.raises(ValueError, match="written by kind 'moving_average'"):
        weigh(rewards(), PriorState(kind="moving_average"), TrustConfig(), PriorConfig(), Combine.gdpo)
