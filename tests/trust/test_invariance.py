"""What must not matter: the order of samples and prompts, bit for bit, and the unit of the reward."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.advantage.stage import build
from rlvis.records import PriorState, RewardHistory
from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    AgreementConfig,
    Combine,
    CrtConfig,
    CrtForm,
    PosteriorConfig,
    PriorConfig,
    PriorScope,
    TrustConfig,
    TrustScale,
)
from tests.trust.cases import AVERAGE, BPGO, EXP, prompts, ran, rewards

P, K, R = 5, 7, 2
INDEX = torch.tensor([3, 1, 4, 1, 5])  # one prompt twice
GATED = CrtConfig(form=CrtForm.gated)
TRUSTS = [
    BPGO,
    *(
        TrustConfig(kind=kind, scale=TrustScale.running_std, crt=EXP, **{kind: section(prior_var=var)})
        for kind, section in (("posterior", PosteriorConfig), ("agreement", AgreementConfig))
        for var in (1.0, None)
    ),
    replace(BPGO, kind="none", crt=replace(EXP, monotone=True)),
]
NAMES = ["ras", "posterior", "posterior_own", "agreement", "agreement_own", "none"]
PRIORS = [
    AVERAGE,
    PriorConfig(kind="moving_average", scope=PriorScope.prompt),
    PriorConfig(kind="hierarchical"),
    PriorConfig(kind="constant", value=0.2),
    PriorConfig(kind="record", field="p"),
    PriorConfig(kind="reference", samples=4),
    PriorConfig(kind="first_frame"),
]
KINDS = ["moving_average", "per_prompt", "hierarchical", "constant", "record", "reference", "first_frame"]
VARIANCES = {"moving_average", "per_prompt", "hierarchical", "reference"}
PAIRS = [
    pytest.param(trust, prior, id=f"{name}-{kind}")
    for trust, name in zip(TRUSTS, NAMES, strict=True)
    for prior, kind in zip(PRIORS, KINDS, strict=True)
    if not name.endswith("_own") or kind in VARIANCES
]


def noise(seed, k=K, r=R):
    """[P, k, r] rewards above 0 (`gated` takes no others), with ties among them."""
    drawn = torch.rand(P, k, r, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    drawn[0, :2] = 0.3
    drawn[2] = 0.1 + 0.2  # a group of equal rewards
    return drawn + 0.01


def steps(trust, prior, config=None, *, places=None, orders=None, a=1.0, b=0.0, valid=None, count=3):
    """`count` steps: [weight, share, contrast, advantages] of each, and the memory after the last.

    places, orders: permutations of prompts and samples. a, b: the rewards become a R + b.
    """
    places = list(range(P)) if places is None else places
    orders = list(range(K)) if orders is None else orders
    config = config or AdvantageConfig(preset=AdvantagePreset.dance, adv_clip=1e9)
    state, history, out = PriorState(kind=prior.kind), RewardHistory(), []
    if prior.kind == "constant":
        prior = replace(prior, value=a * prior.value + b)
    fields = [{"p": a * p + b} for p in (0.2, 0.5, 0.3, 0.1, 0.4)]
    mask = torch.ones(P, K, dtype=torch.bool) if valid is None else valid
    for seed in range(count):
        scored = rewards((a * noise(seed) + b)[places][:, orders], mask[places][:, orders], (0.75, 0.25))
        same = [0, 1, 2, 1, 4]  # for both rows of one prompt
        elsewhere = rewards((a * noise(9 + seed, 4) + b)[same][places], weights=(0.75, 0.25))
        asked = {"reference": elsewhere} if prior.kind in ("reference", "first_frame") else {}
        batch = {"index": INDEX[places], "metadata": [fields[p] for p in places], "combine": config.combine}
        judged, state = ran(scored, trust, prior, state, **batch, **asked)
        built, history = build(
            scored, judged, config, prompts(INDEX[places]).index, history, contrast_coef=trust.crt.weight
        )
        out.append((judged.weight, judged.contrast_share, judged.contrast, built.term))
    return out, state


def assert_only_permuted(trust, prior, config, places, orders):
    valid = torch.ones(P, K, dtype=torch.bool)
    valid[1, 3] = valid[4, 0] = False
    count = 2 if config is not None and config.preset is AdvantagePreset.ddpo else 3
    plain, memory = steps(trust, prior, config, valid=valid, count=count)
    turned, after = steps(trust, prior, config, valid=valid, places=places, orders=orders, count=count)
    for (w, s, c, t), (w2, s2, c2, t2) in zip(plain, turned, strict=True):
        assert w2.equal(w[places])
        assert s2.equal(s[places])
        assert c2.equal(c[places][:, orders])
        assert t2.equal(t[:, places][:, :, orders])
    assert all(after.values[name].equal(value) for name, value in memory.values.items())


@pytest.mark.parametrize(("trust", "prior"), PAIRS)
@settings(max_examples=4, deadline=None)
@given(places=st.permutations(range(P)), orders=st.permutations(range(K)))
def test_permuting_prompts_and_samples_changes_no_bit(trust, prior, places, orders):
    assert_only_permuted(trust, prior, None, places, orders)


@pytest.mark.parametrize("crt", [EXP, GATED], ids=["exp", "gated"])
@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("preset", list(AdvantagePreset))
@settings(max_examples=4, deadline=None)
@given(places=st.permutations(range(P)), orders=st.permutations(range(K)))
def test_nor_with_any_preset_contrast_and_combination(preset, combine, crt, places, orders):
    """ddpo remembers 32 rewards of a prompt; which are dropped follows the order, so here are fewer."""
    config = AdvantageConfig(preset=preset, combine=combine)
    assert_only_permuted(replace(BPGO, crt=crt), AVERAGE, config, places, orders)


@pytest.mark.parametrize("prior", [AVERAGE, PriorConfig(kind="constant", value=0.2)], ids=["mean", "0.2"])
def test_the_middle_of_three_does_not_beat_their_mean(prior):
    """.1 + .2 + .3 and .3 + .2 + .1 differ in the last bit, which was worth .15 of the middle's advantage."""
    for trust in (BPGO, replace(BPGO, crt=GATED)):
        upwards, _ = ran(rewards([[0.1, 0.2, 0.3]]), trust, prior)
        downwards, _ = ran(rewards([[0.3, 0.2, 0.1]]), trust, prior)
        assert downwards.contrast.flip(1).equal(upwards.contrast)
        assert upwards.contrast[0, 1, 0].abs() < 1e-9  # no indicator in it


@pytest.mark.parametrize(("trust", "prior"), PAIRS)
@settings(max_examples=6, deadline=None)
@given(power=st.floats(-6, 6), shift=st.floats(-3, 3))
def test_the_unit_of_the_reward_does_not_matter(trust, prior, power, shift):
    """R -> a R + b, with the priors of record, constant and reference in the new unit too, to 1e-9.

    b is of the size of a: a larger one costs digits of the rewards themselves.
    """
    a = 10.0**power
    plain, _ = steps(trust, prior)
    scaled, _ = steps(trust, prior, a=a, b=shift * a)
    for before, after in zip(plain, scaled, strict=True):
        for one, other in zip(before[:3], after[:3], strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("power", [-6, -4, 3, 6])
def test_nor_does_it_for_the_gated_contrast_up_to_a_factor(power):
    """It multiplies by the reward, so a constant added to it does change the contrast."""
    trust = replace(BPGO, crt=GATED)
    plain, scaled = (steps(trust, AVERAGE, a=a)[0] for a in (1.0, 10.0**power))
    for before, after in zip(plain, scaled, strict=True):
        for one, other in zip(before[:3], after[:3], strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
