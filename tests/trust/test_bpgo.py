"""What BPGO promises of advantages, through weigh and build as the pipeline calls them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlvis import schema as S
from rlvis.record_base import equal
from rlvis.records import PriorState, RewardHistory
from rlvis.rollout import plan
from rlvis.rollout.stage import rollout
from rlvis.runtime.dist import World
from rlvis.training import pipeline
from rlvis.update.stage import UpdateSettings, update
from tests import setting
from tests.trust.cases import AVERAGE, BPGO, CONSTANT, DANCE, FORMS, advantages, ran, ras, rewards

# Rewards on a grid of 1e-3: pairs closer than rounding would make the contrast's indicator a coin toss.
GRID = st.integers(-3000, 3000).map(lambda i: i / 1000)
GROUPS = arrays(float, (3, 5), elements=GRID)
FREE = replace(DANCE, adv_clip=1e9)
WHOLE = [*(replace(form, crt=BPGO.crt) for form in FORMS), BPGO]
IDS = [*(form.kind for form in FORMS), "running_std"]


@pytest.mark.parametrize("combine", list(S.Combine))
@settings(deadline=None)
@given(values=arrays(float, (3, 5, 2), elements=GRID), k=st.floats(0, 10))
def test_alpha_and_varsigma_zero_is_grpo_bit_for_bit(combine, values, k):
    config = replace(DANCE, combine=combine)
    off = ras(alpha=0.0, k=k, crt=replace(BPGO.crt, weight=0.0))
    plain = advantages(rewards(values), S.TrustConfig(), S.PriorConfig(), config=config)
    assert equal(advantages(rewards(values), off, config=config), plain)


@settings(deadline=None)
@given(GROUPS)
def test_no_slope_is_weight_one(values):
    assert ran(rewards(values), ras(k=0.0))[0].weight.eq(1).all()


@pytest.mark.parametrize("trust", WHOLE, ids=IDS)
@settings(deadline=None)
@given(values=GROUPS, order=st.permutations(range(5)))
def test_permuting_samples_permutes_advantages(trust, values, order):
    plain = advantages(rewards(values), trust, config=FREE)
    turned = advantages(rewards(values[:, order]), trust, config=FREE)
    assert turned.term.equal(plain.term[..., order])


@pytest.mark.parametrize("trust", WHOLE, ids=IDS)
@settings(deadline=None)
@given(values=GROUPS)
def test_the_mean_of_every_term_is_zero_in_every_group_and_weights_are_the_group_s(trust, values):
    weighted = advantages(rewards(values), trust, config=FREE)
    assert weighted.term.shape == (2, 3, 5)
    assert weighted.term.mean(-1).abs().max() < 1e-9
    plain = advantages(rewards(values), S.TrustConfig(), S.PriorConfig(), config=FREE)
    weight = ran(rewards(values), trust)[0].weight
    assert weight.shape == (3, 1)
    torch.testing.assert_close(weighted.term[0], weight * plain.term[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("trust", WHOLE[:3], ids=IDS[:3])
@settings(deadline=None)
@given(values=GROUPS, other=st.floats(-10, 10))
def test_a_group_s_prior_never_leaks_to_another(trust, values, other):
    prior = S.PriorConfig(kind="record", field="p")
    terms = []
    for p in (0.5, other):
        fields = [{"p": 0.1}, {"p": p}, {"p": -0.3}]
        terms.append(advantages(rewards(values), trust, prior, metadata=fields).term)
    assert terms[0][:, [0, 2]].equal(terms[1][:, [0, 2]])


@pytest.mark.parametrize("trust", WHOLE, ids=IDS)
@pytest.mark.parametrize("prior", [CONSTANT, AVERAGE])
def test_huge_rewards_stay_finite(trust, prior):
    values = torch.tensor([[1e6, -1e6, 3.0], [1e6, 1e6, 1e6], [-1e6, -1e6, 0.1]], dtype=torch.float64)
    state = PriorState(kind=prior.kind)
    for _ in range(2):
        judgement, state = ran(rewards(values), trust, prior, state)
        assert torch.isfinite(judgement.weight).all()
        assert torch.isfinite(judgement.contrast).all()
        assert all(torch.isfinite(v).all() for v in state.values.values())
    assert torch.isfinite(advantages(rewards(values), trust, prior).term).all()


@pytest.mark.parametrize("trust", WHOLE, ids=IDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_as_if_it_were_not_there(trust, bad):
    values = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values[:, 2] = bad
    kept = [0, 1, 3, 4]
    masked = advantages(rewards(values), trust)
    without = advantages(rewards(values[:, kept]), trust)
    torch.testing.assert_close(masked.term[..., kept], without.term, rtol=1e-12, atol=1e-12)
    assert masked.term[..., 2].eq(0).all()
    assert masked.keep[:, 2].eq(False).all()
    assert (~masked.keep).sum() == 2


def test_the_contrast_term_is_weighed_when_told():
    values = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    plain = advantages(rewards(values), BPGO)
    weighed = advantages(rewards(values), replace(BPGO, ras=S.RasConfig(weight_crt=True)))
    w = ran(rewards(values), BPGO)[0].weight
    assert plain.coef.tolist() == [1.0, 0.5]
    assert w.item() > 1
    torch.testing.assert_close(weighed.term[1], w * plain.term[1])
    assert weighed.term[0].equal(plain.term[0])


def test_the_contrast_has_its_own_group_whatever_the_preset():
    values = torch.tensor([[1.0, 2.0, 4.0], [0.1, 0.2, 0.4]], dtype=torch.float64)
    grouped = advantages(rewards(values), BPGO, config=S.AdvantageConfig())
    batch = advantages(rewards(values), BPGO, config=S.AdvantageConfig(std_scope=S.StdScope.batch))
    assert batch.term[1].equal(grouped.term[1])
    assert not batch.term[0].equal(grouped.term[0])
    spread = grouped.term[1].std(-1, correction=0)
    assert spread.tolist() == pytest.approx([1.0, 1.0], rel=1e-3)  # eps is 1e-4


def spread_out(spread):
    """One group of six rewards of this spread around .55, beside one that gives the unit."""
    group = 0.55 + spread * torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)
    return torch.stack([group, torch.linspace(0.1, 1.1, 6, dtype=torch.float64)])


def contrast_rms(values, trust=BPGO):
    """Root mean square of the last term, the contrast's, in the first group."""
    return advantages(rewards(values), trust, config=FREE).term[-1, 0].square().mean().sqrt().item()


GATED = replace(BPGO, kind="none", crt=S.CrtConfig(form=S.CrtForm.gated))
BOTH = pytest.mark.parametrize("trust", [BPGO, GATED], ids=["exp", "gated"])


@BOTH
@pytest.mark.parametrize("spread", [1e-1, 1e-5, 1e-6, 1e-9])
def test_a_group_without_spread_has_no_contrast(trust, spread):
    """rms is (1 - 1e-6 / spread) of a z-score's, sqrt(5/6) with the unbiased std; the spread in units."""
    values = spread_out(spread)
    in_units = spread / values.std(correction=0).item()
    wanted = max(0.0, 1 - 1e-6 / in_units) * (5 / 6) ** 0.5
    assert contrast_rms(values, trust) == pytest.approx(wanted, rel=1e-4)
    assert (wanted == 0) == (spread < 1e-6 * values.std(correction=0).item())


@BOTH
def test_it_fades_continuously(trust):
    """From no contrast to nearly all of it, in steps of 1 % of the spread no more than 1 % at a time."""
    spreads = 10 ** torch.arange(-7, -4, 0.0043).double()  # ratio 1.00995
    sizes = torch.tensor([contrast_rms(spread_out(float(s)), trust) for s in spreads])
    assert (sizes[0], sizes[-1] > 0.89) == (0, True)
    assert (sizes.diff().abs() < 0.01).all()


@BOTH
@pytest.mark.parametrize("scale", list(S.TrustScale))
def test_rounding_does_not_train(trust, scale):
    values = [[0.1 + 0.2, 0.3, 0.3, 0.3]]
    for prior in (AVERAGE, S.PriorConfig(kind="constant", value=0.3)):
        built = advantages(rewards(values), replace(trust, scale=scale), prior)
        assert built.term[-1].eq(0).all()


class Run:
    """A tiny policy that goes on training on one rollout, with new rewards every step."""

    def __init__(self, folder: Path, **groups: Any) -> None:
        self.config = setting.config(
            folder, data={"samples_per_prompt": 4}, train={"updates_per_step": 12}, **groups
        )
        self.policy = setting.policy(self.config)
        self.prompts = setting.prompts(self.policy)
        steps = plan.make(self.policy, self.config, step=0)
        self.trajectories = rollout(self.policy, self.policy.module, self.prompts, range(12), steps)
        self.engine = setting.PlainEngine(self.policy.module)

    def train(self, steps: int) -> torch.Tensor:
        config, state = self.config, PriorState(kind=self.config.prior.kind)
        done = 0.0
        for step in range(steps):
            values = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            scored = rewards(values)
            trust, state = pipeline.weigh(config, self.prompts, scored, state)
            built, _ = pipeline.build(config, self.prompts, scored, trust, RewardHistory())
            limits = UpdateSettings(config.advantage, config.sampler, config.train)
            result = update(self.policy, self.engine, self.prompts, self.trajectories, built, limits, World())
            done += result.metrics["update/optimizer_steps"]
        assert done == 12 * steps
        return torch.cat([p.detach().flatten().clone() for _, p in self.policy.trainable()])


def test_sixty_updates_with_alpha_and_varsigma_zero_end_in_the_weights_of_grpo(sd3_folder: Path) -> None:
    sampler = {"steps": 3}
    average = {"kind": "moving_average"}
    zero = {
        "kind": "ras",
        "scale": S.TrustScale.running_std,
        "ras": S.RasConfig(alpha=0.0),
        "crt": S.CrtConfig(form=S.CrtForm.exp, weight=0.0),
    }
    on = {**zero, "ras": S.RasConfig(), "crt": S.CrtConfig(form=S.CrtForm.exp)}
    start = Run(sd3_folder, sampler=sampler).train(0)
    grpo = Run(sd3_folder, sampler=sampler).train(5)
    assert not grpo.equal(start)
    assert Run(sd3_folder, sampler=sampler, trust=zero, prior=average).train(5).equal(grpo)
    assert (
        not Run(sd3_folder, sampler=sampler, trust=on, prior=average)
        .train(1)
        .equal(Run(sd3_folder, sampler=sampler).train(1))
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), stop=st.integers(1, 3))
def test_resuming_from_a_saved_state_changes_no_bit(seed, stop, tmp_path_factory):
    generator = torch.Generator().manual_seed(seed)
    steps = [rewards(torch.rand(3, 4, dtype=torch.float64, generator=generator)) for _ in range(4)]
    folder = tmp_path_factory.mktemp("state")
    whole = parted = PriorState(kind="moving_average")
    for i, scored in enumerate(steps):
        a, whole = ran(scored, BPGO, AVERAGE, whole)
        if i == stop:
            parted.save(folder / "prior")
            parted = PriorState.load(folder / "prior")
        b, parted = ran(scored, BPGO, AVERAGE, parted)
        assert equal(a, b)
    assert equal(whole, parted)
