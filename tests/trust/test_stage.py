"""The weigh stage: forms and objectives, groups that say nothing, errors."""

from dataclasses import replace

import pytest
import torch

from rlvis.records import PriorState
from rlvis.schema import Combine, CrtConfig, CrtForm, PosteriorConfig, PriorConfig, TrustConfig
from tests.trust.cases import AVERAGE, BPGO, CONSTANT, FORMS, RAS, ran, rewards

NONE = PriorConfig()


def noise(p=3, k=4, r=2, seed=0):
    return torch.randn(p, k, r, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("combine", "q"), [(Combine.weighted_sum, 1), (Combine.gdpo, 2), (Combine.separate_terms, 2)]
)
class TestObjectives:
    def test_without_trust_all_are_trusted_alike(self, combine, q):
        trust, state = ran(rewards(noise()), TrustConfig(), NONE, combine=combine)
        assert trust.weight.shape == (3, q)
        assert trust.weight.eq(1).all()
        assert trust.contrast is None
        assert trust.anchor_mean is None
        assert state.values == {}

    def test_weights_and_contrast_are_per_objective(self, combine, q):
        values = noise()
        scored = rewards(values, weights=(1.0, 0.5))
        trust, state = ran(scored, BPGO, CONSTANT, combine=combine)
        assert trust.weight.shape == (3, q)
        assert trust.contrast.shape == (3, 4, q)
        assert state.values["scale/var"].shape == (q,)
        one = values[..., :1] if q == 2 else values @ torch.tensor([[1.0], [0.5]], dtype=torch.float64)
        alone, _ = ran(rewards(one), BPGO, CONSTANT)
        torch.testing.assert_close(trust.weight[:, :1], alone.weight, rtol=0, atol=0)
        torch.testing.assert_close(trust.contrast[..., :1], alone.contrast, rtol=0, atol=0)


def test_the_prior_variance_of_the_posterior_form():
    scored = rewards(noise(r=1))
    state = ran(scored, FORMS[1], AVERAGE)[1]
    fixed, _ = ran(scored, FORMS[1], AVERAGE, state)
    assert fixed.anchor_var.eq(1).all()
    form = replace(FORMS[1], posterior=PosteriorConfig(prior_var=None))
    remembered, _ = ran(scored, form, AVERAGE, state)
    torch.testing.assert_close(remembered.anchor_var, state.values["all"][1].expand(3, 1))
    assert not remembered.weight.equal(fixed.weight)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.kind)
def test_groups_without_a_valid_sample_have_weight_one(form):
    values = noise(r=1)
    values[1] = torch.nan
    values[2, 1:] = torch.nan  # one is left: the weight is that of a group of one
    trust, _ = ran(rewards(values), form)
    assert trust.weight[1].item() == 1.0
    alone, _ = ran(rewards(values[2:, :1]), form)
    assert trust.weight[2].item() == alone.weight.item() != 1.0


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.kind)
def test_equal_rewards_at_the_prior_have_the_weight_of_agreement(form):
    """12 x 0.7 averages to 0.7 - 1e-16; the weight must not see that."""
    trust, _ = ran(rewards([[0.7] * 12]), form, PriorConfig(kind=CONSTANT.kind, value=0.7))
    assert trust.weight.item() == (1.5 if form.kind == "agreement" else 1.0)


def test_the_running_unit_makes_weights_independent_of_the_reward_s_unit():
    values = noise(r=1)
    small, _ = ran(rewards(values / 64 + 3.0), BPGO, PriorConfig(kind=CONSTANT.kind, value=0.5 / 64 + 3.0))
    large, _ = ran(rewards(values), BPGO, CONSTANT)
    torch.testing.assert_close(small.weight, large.weight, rtol=1e-10, atol=0)
    torch.testing.assert_close(small.contrast, large.contrast, rtol=1e-9, atol=1e-12)


def test_gated_replaces_and_masks():
    gated = TrustConfig(crt=CrtConfig(form=CrtForm.gated))
    values = torch.tensor([[1.0, 2.0, torch.nan]], dtype=torch.float64)
    trust, _ = ran(rewards(values), gated)
    assert trust.contrast_replaces
    assert trust.weight.eq(1).all()
    assert trust.contrast[0, :, 0].tolist() == pytest.approx(
        [26 / (1 + 2.718281828459045**-0.2), 152 / (1 + 2.718281828459045**-0.4), 0.0]
    )
    with pytest.raises(ValueError, match="are not above 0: the first is -1"):
        ran(rewards([[1.0, -1.0]]), gated)


@pytest.mark.parametrize(
    ("trust", "named"),
    [
        (RAS, "trust.kind=ras"),
        (TrustConfig(crt=CrtConfig(form=CrtForm.exp)), "trust.crt.form=exp"),
        (BPGO, "trust.kind=ras and trust.crt.form=exp"),
    ],
)
def test_a_form_without_its_prior_is_refused(trust, named):
    with pytest.raises(ValueError, match=f"{named} compares rewards with a prior.*type prior=moving_average"):
        ran(rewards(noise()), trust, NONE)


def test_a_state_of_another_prior_is_refused():
    with pytest.raises(ValueError, match="written by kind 'moving_average'"):
        ran(rewards(noise()), TrustConfig(), NONE, PriorState(kind="moving_average"))


def test_a_reward_with_a_negative_weight_is_no_objective_of_its_own():
    scored = rewards(noise(), weights=(1.0, -0.5))
    with pytest.raises(ValueError, match=r"reward 'b' counts by itself and has the weight -0\.5"):
        ran(scored, RAS, combine=Combine.gdpo)
    assert ran(scored, RAS)[0].weight.shape == (3, 1)
    assert ran(scored, TrustConfig(), NONE, combine=Combine.gdpo)[0].weight.eq(1).all()
