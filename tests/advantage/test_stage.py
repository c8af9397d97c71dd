"""The build stage: order of operations, terms of every combination, contrast, masks, errors."""

import pytest
import torch

from rlvis.advantage.normalise import RULES, contrast_zscore, group_zscore
from rlvis.advantage.stage import build
from rlvis.record_base import equal
from rlvis.records import RewardHistory, Rewards, Trust
from rlvis.schema import AdvantageConfig, AdvantagePreset, Combine, StdScope

P, K, R = 3, 4, 2
INDEX = torch.tensor([11, 12, 13])
GRPO = RULES[AdvantagePreset.flow_grpo]


def make(weights=(1.0, 0.5), valid=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    term = torch.randn(P, K, len(weights), dtype=torch.float64, generator=generator)
    valid = torch.ones(P, K, dtype=torch.bool) if valid is None else valid
    term[~valid] = float("nan")
    names = ("colour", "shape")[: len(weights)]
    return Rewards(term=term, names=names, weights=weights, valid=valid, latency=(0.0,) * len(weights))


def plain(q=1, **changes):
    return Trust(weight=torch.ones(P, q, dtype=torch.float64), contrast_replaces=False).replace(**changes)


def run(rewards, trust, config=None, **more):
    return build(rewards, trust, config or AdvantageConfig(), INDEX, RewardHistory(), **more)[0]


def z(values, valid=None):
    return group_zscore(values, torch.ones(P, K, dtype=torch.bool) if valid is None else valid, GRPO)


def zc(values, valid=None):
    return contrast_zscore(values, torch.ones(P, K, dtype=torch.bool) if valid is None else valid, GRPO)


def test_weighted_sum_is_one_z_score_of_the_sum():
    rewards = make()
    out = run(rewards, plain())
    torch.testing.assert_close(
        out.term[0], z(rewards.term[..., 0] + 0.5 * rewards.term[..., 1]), rtol=0, atol=0
    )
    assert (out.names, out.coef.tolist(), out.keep.all().item()) == (("grpo",), [1.0], True)


def test_separate_terms_carry_the_weights_as_coefficients():
    rewards = make()
    out = run(rewards, plain(2), AdvantageConfig(combine=Combine.separate_terms))
    for r in range(R):
        torch.testing.assert_close(out.term[r], z(rewards.term[..., r]), rtol=0, atol=0)
    assert (out.names, out.coef.tolist()) == (("colour", "shape"), [1.0, 0.5])


def test_a_negative_weight_turns_the_term_and_not_the_clip():
    rewards = make((1.0, -0.5))
    out = run(rewards, plain(2), AdvantageConfig(combine=Combine.separate_terms))
    torch.testing.assert_close(out.term[1], -z(rewards.term[..., 1]), rtol=0, atol=0)
    assert out.coef.tolist() == [1.0, 0.5]


def test_gdpo_normalises_over_the_batch_and_weighs_inside():
    rewards = make()
    weight = torch.tensor([[1.0, 2.0], [0.5, 1.0], [1.0, 1.0]], dtype=torch.float64)
    config = AdvantageConfig(combine=Combine.gdpo, preset=AdvantagePreset.gdpo)
    out = run(rewards, plain(2, weight=weight), config)
    rule = RULES[AdvantagePreset.gdpo]
    total = sum(
        w * weight[:, r, None] * group_zscore(rewards.term[..., r], rewards.valid, rule)
        for r, w in enumerate(rewards.weights)
    )
    torch.testing.assert_close(
        out.term[0], (total - total.mean()) / total.std(correction=0), rtol=1e-12, atol=1e-12
    )
    assert out.names == ("gdpo",)


def test_order_is_z_then_trust_then_clamp_then_sign():
    rewards = make((1.0,))
    weight = torch.tensor([[1.0], [0.5], [100.0]], dtype=torch.float64)
    out = run(rewards, plain(weight=weight), AdvantageConfig(adv_clip=1.5, sign=-1.0))
    torch.testing.assert_close(
        out.term[0], -(weight * z(rewards.term[..., 0])).clamp(-1.5, 1.5), rtol=0, atol=0
    )
    assert out.term[0, 2].abs().max() == 1.5


@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("preset", list(AdvantagePreset))
def test_invalid_samples_get_zero_and_move_nothing(combine, preset):
    """Whatever stands where an invalid sample's scores would be changes no bit."""
    valid = torch.ones(P, K, dtype=torch.bool)
    valid[0, 1] = valid[2] = False
    rewards = make(valid=valid)
    q = 1 if combine is Combine.weighted_sum else R
    config = AdvantageConfig(combine=combine, preset=preset)
    out = run(rewards, plain(q), config)
    filled = rewards.replace(term=torch.where(valid[..., None], rewards.term, 1e9))
    assert equal(out, run(filled, plain(q), config))
    assert out.term[:, ~valid].eq(0).all()
    assert torch.equal(out.keep, valid)


def test_std_scope_overrides_the_preset():
    rewards = make((1.0,))
    out = run(rewards, plain(), AdvantageConfig(std_scope=StdScope.batch))
    expected = group_zscore(rewards.term[..., 0], rewards.valid, GRPO, StdScope.batch)
    torch.testing.assert_close(out.term[0], expected, rtol=0, atol=0)


def test_without_a_std_terms_keep_their_units_and_clamp():
    """Colours 0, 2, 4 and shapes 30, 0, 0 of weight 0.5, by hand: as a sum 15, 2, 4, and as two terms."""
    term = torch.tensor([[[0.0, 30.0], [2.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)
    rewards = make(weights=(1.0, 0.5)).replace(term=term, valid=torch.ones(1, 3, dtype=torch.bool))
    trust = Trust(weight=torch.full((1, 1), 2.0, dtype=torch.float64), contrast_replaces=False)
    config = AdvantageConfig(std_scope=StdScope.none, adv_clip=12.0)
    out, _ = build(rewards, trust, config, INDEX[:1], RewardHistory())
    assert out.term.tolist() == [[[12.0, -10.0, -6.0]]]  # 2 (15 - 7) is clamped
    two = trust.replace(weight=torch.ones(1, 2, dtype=torch.float64))
    config = AdvantageConfig(std_scope=StdScope.none, adv_clip=12.0, combine=Combine.separate_terms)
    out, _ = build(rewards, two, config, INDEX[:1], RewardHistory())
    assert out.term.tolist() == [[[-2.0, 0.0, 2.0]], [[12.0, -10.0, -10.0]]]
    assert out.coef.tolist() == [1.0, 0.5]


def test_ddpo_history_is_returned_and_used():
    rewards, config = make((1.0,)), AdvantageConfig(preset=AdvantagePreset.ddpo)
    history = RewardHistory()
    for _ in range(4):
        out, history = build(rewards, plain(), config, INDEX, history)
    assert sorted(history.values) == ["11", "12", "13"]
    assert len(history.values["11"]) == 16
    values = rewards.term[..., 0]
    expected = (values - values.mean(-1, keepdim=True)) / (values.std(-1, correction=0, keepdim=True) + 1e-6)
    torch.testing.assert_close(out.term[0], expected, rtol=1e-12, atol=1e-12)


def test_other_presets_leave_the_history_alone():
    rewards, history = make(), RewardHistory(values={"11": torch.ones(2, dtype=torch.float64)})
    assert equal(build(rewards, plain(), AdvantageConfig(), INDEX, history)[1], history)


def test_best_of_n_sets_keep_only():
    rewards = make((1.0,))
    out = run(rewards, plain(), AdvantageConfig(best_of_n=2))
    full = run(rewards, plain())
    assert torch.equal(out.term, full.term)
    assert out.keep.sum(-1).tolist() == [2] * P
    for p in range(P):
        assert out.keep[p, full.term[0, p].argmax()]
        assert out.keep[p, full.term[0, p].argmin()]


def test_best_of_n_ranks_by_the_sum_of_terms():
    """Terms that disagree: 2, 1, -3 with 10, -10, 0 times coefficient 0.5 each."""
    term = torch.tensor([[[2.0, 10.0], [1.0, -10.0], [-3.0, 0.0]]], dtype=torch.float64)
    rewards = Rewards(
        term=term,
        names=("a", "b"),
        weights=(0.5, 0.5),
        valid=torch.ones(1, 3, dtype=torch.bool),
        latency=(0.0, 0.0),
    )
    trust = Trust(weight=torch.ones(1, 2, dtype=torch.float64), contrast_replaces=False)
    config = AdvantageConfig(combine=Combine.separate_terms, best_of_n=2)
    out, _ = build(rewards, trust, config, torch.tensor([0]), RewardHistory())
    assert out.keep[0].tolist() == [True, False, True]


class TestContrast:
    def contrast(self, q=1):
        generator = torch.Generator().manual_seed(5)
        return torch.randn(P, K, q, dtype=torch.float64, generator=generator)

    def test_it_is_a_further_unweighted_term(self):
        rewards, contrast = make((1.0,)), self.contrast()
        weight = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
        trust = plain(weight=weight, contrast=contrast)
        out = run(rewards, trust, contrast_coef=0.25)
        torch.testing.assert_close(
            out.term, torch.stack([weight * z(rewards.term[..., 0]), zc(contrast[..., 0])]), rtol=0, atol=0
        )
        assert (out.names, out.coef.tolist()) == (("grpo", "grpo_contrast"), [1.0, 0.25])
        weighed = run(rewards, trust, contrast_coef=0.25, weigh_contrast=True)
        torch.testing.assert_close(weighed.term[1], weight * zc(contrast[..., 0]), rtol=0, atol=0)

    def test_it_replaces_the_base_reward(self):
        contrast = self.contrast()
        weight = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
        trust = plain(weight=weight, contrast=contrast, contrast_replaces=True)
        out = run(make((1.0,)), trust, contrast_coef=0.25)
        torch.testing.assert_close(out.term, (weight * z(contrast[..., 0]))[None], rtol=0, atol=0)
        assert out.names == ("grpo",)

    @pytest.mark.parametrize("replaces", [False, True])
    def test_its_share_multiplies_its_z_scores_and_none_is_one(self, replaces):
        rewards = make((1.0,))
        plainly = plain(contrast=self.contrast(), contrast_replaces=replaces)
        share = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
        full = run(rewards, plainly, contrast_coef=0.25, weigh_contrast=True)
        shared = run(rewards, plainly.replace(contrast_share=share), contrast_coef=0.25, weigh_contrast=True)
        assert torch.equal(shared.term[-1], share * full.term[-1])
        assert torch.equal(shared.term[:-1], full.term[:-1])  # of the rewards beside a contrast

    def test_a_past_to_compare_with_needs_no_spread_in_the_group(self):
        """With ddpo a group of one sample trains; the share of its contrast is 0."""
        none = torch.zeros(P, 1, dtype=torch.float64)
        trust = plain(contrast=self.contrast(), contrast_replaces=True)
        config = AdvantageConfig(preset=AdvantagePreset.ddpo)
        assert equal(
            run(make((1.0,)), trust.replace(contrast_share=none), config), run(make((1.0,)), trust, config)
        )

    def test_coefficient_zero_is_grpo_bit_for_bit(self):
        rewards = make((1.0,))
        assert equal(run(rewards, plain(contrast=self.contrast())), run(rewards, plain()))

    def test_separate_terms_have_a_contrast_each(self):
        contrast = self.contrast(2)
        config = AdvantageConfig(combine=Combine.separate_terms)
        out = run(make(), plain(2, contrast=contrast), config, contrast_coef=0.5)
        assert out.names == ("colour", "shape", "colour_contrast", "shape_contrast")
        assert out.coef.tolist() == [1.0, 0.5, 0.5, 0.25]
        torch.testing.assert_close(out.term[3], zc(contrast[..., 1]), rtol=0, atol=0)

    def test_gdpo_joins_the_contrasts(self):
        config = AdvantageConfig(combine=Combine.gdpo)
        out = run(make(), plain(2, contrast=self.contrast(2)), config, contrast_coef=0.5)
        assert (out.names, out.coef.tolist()) == (("gdpo", "gdpo_contrast"), [1.0, 0.5])
        assert out.term[1].std(correction=0).item() == pytest.approx(1.0, rel=1e-12)

    def test_invalid_samples_of_a_contrast_are_masked(self):
        valid = torch.ones(P, K, dtype=torch.bool)
        valid[1, 2] = False
        contrast = self.contrast()
        contrast[1, 2] = float("nan")
        out = run(make((1.0,), valid=valid), plain(contrast=contrast), contrast_coef=1.0)
        assert out.term[1, 1, 2].item() == 0
        torch.testing.assert_close(out.term[1], zc(contrast[..., 0], valid), rtol=0, atol=0)


def test_the_map_passes_through():
    local = torch.rand(5, 1, 2, 2)
    assert run(make(), plain(), map=local).map is local


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdvantageConfig(combine=Combine.gdpo), r"wanted shape \[P=3, Q=2\].*got \[3, 1\]"),
        (
            AdvantageConfig(preset=AdvantagePreset.ddpo, std_scope=StdScope.batch),
            "std_scope=batch means nothing",
        ),
        (
            AdvantageConfig(std_scope=StdScope.none, combine=Combine.gdpo),
            "std_scope=none with advantage.comb",
        ),
        (AdvantageConfig(adv_clip=0.0), "adv_clip=0.0"),
    ],
)
def test_contradictions_are_errors(config, message):
    with pytest.raises(ValueError, match=message):
        run(make(), plain(), config)
