"""A map on the reward (ViPO's ablation): z-scores at each position, by hand and against the scalar ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rlvis.advantage import stage
from rlvis.advantage.stage import build
from rlvis.records import Advantages, RewardHistory, Rewards, Trust
from rlvis.runtime.dist import World
from rlvis.schema import AdvantageConfig, AdvantagePreset, ApplyTo, Combine, MapConfig, RatioScope, StdScope

P, K = 3, 4
GRID = (2, 3, 5)


def config(**changes):
    map_ = MapConfig(apply_to=ApplyTo.reward)
    return AdvantageConfig(map=map_, ratio_scope=RatioScope.position, **changes)


def rewards(term, valid=None, weights=None):
    """Rewards of [P, K, R] values."""
    term = torch.as_tensor(term, dtype=torch.float64)
    r = term.shape[2]
    valid = torch.ones(term.shape[:2], dtype=torch.bool) if valid is None else valid
    names = ("colour", "shape")[:r]
    return Rewards(term=term, names=names, weights=weights or (1.0,) * r, valid=valid, latency=(0.0,) * r)


def drawn(r=1, **more):
    generator = torch.Generator().manual_seed(0)
    return rewards(torch.randn(P, K, r, dtype=torch.float64, generator=generator), **more)


def maps(seed=1):
    return torch.rand(P * K, *GRID, generator=torch.Generator().manual_seed(seed))


def trusting(given, q=1, **changes):
    ones = torch.ones(given.valid.shape[0], q, dtype=torch.float64)
    return Trust(weight=ones, contrast_replaces=False).replace(**changes)


def run(given, map_, settings=None, trust=None, rows=None, gather=None, **more) -> Advantages:
    """The field of all rows, as one process makes it, or of some of them."""
    settings = settings or config()
    q = 1 if settings.combine is Combine.weighted_sum else given.term.shape[2]
    advantages, _ = build(
        given,
        trust or trusting(given, q),
        settings,
        torch.arange(given.valid.shape[0]),
        RewardHistory(),
        map=map_,
        rows=rows or range(len(map_)),
        gather=gather or (lambda local_maps: local_maps),
        **more,
    )
    assert advantages.map is None
    assert advantages.field is not None
    return advantages


def test_one_group_of_three_by_hand():
    """Products 1, 0, 3 at the left position (mean 4/3, variances 14/9 and 7/3), and 0.5, 2, 0.5 at the right
    one.
    """
    map_ = torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, 1 / 6]]).view(3, 1, 1, 2)
    given = rewards([[[1.0], [2.0], [3.0]]])
    left = [-1 / 3, -4 / 3, 5 / 3]
    right = [-0.5, 1.0, -0.5]
    for preset, eps, variances in (
        (AdvantagePreset.flow_grpo, 1e-4, (14 / 9, 0.5)),
        (AdvantagePreset.dance, 1e-8, (7 / 3, 0.75)),
    ):
        field = run(given, map_, config(preset=preset)).field
        assert field.shape == (1, 3, 1, 1, 2)
        for column, deviations, variance in zip((0, 1), (left, right), variances, strict=True):
            expected = [d / (variance**0.5 + eps) for d in deviations]
            assert field[0, :, 0, 0, column].tolist() == pytest.approx(expected, rel=1e-6)


def test_without_a_std_products_keep_their_units():
    given = rewards([[[1.0], [3.0]]])
    map_ = torch.tensor([0.5, 0.25])[:, None, None, None].expand(2, *GRID)
    field = run(given, map_, config(std_scope=StdScope.none)).field
    assert field[0].flatten(1).unique(dim=1).tolist() == [[-0.125], [0.125]]  # of 0.5 and 0.75


@pytest.mark.parametrize("preset", [AdvantagePreset.dance, AdvantagePreset.flow_grpo])
@pytest.mark.parametrize("combine", [Combine.weighted_sum, Combine.separate_terms])
@pytest.mark.parametrize("contrast", ["none", "term", "replaces"])
@pytest.mark.parametrize("scope", [None, StdScope.none])
def test_a_map_of_ones_gives_the_scalar_advantages(preset, combine, contrast, scope, monkeypatch):
    """To 1e-12 before the cast to float32: with weight, clamp, sign and a negative coefficient."""
    given = drawn(2, weights=(1.0, -0.5))
    q = 1 if combine is Combine.weighted_sum else 2
    generator = torch.Generator().manual_seed(3)
    weight = torch.rand(P, q, dtype=torch.float64, generator=generator) + 0.5
    trust = trusting(given, q, weight=weight)
    if contrast != "none":
        values = torch.randn(P, K, q, dtype=torch.float64, generator=generator)
        share = 1 - torch.rand(P, q, dtype=torch.float64, generator=generator) / 8
        trust = trust.replace(contrast=values, contrast_share=share, contrast_replaces=contrast == "replaces")
    settings = config(preset=preset, combine=combine, std_scope=scope, adv_clip=0.9, sign=-1.0)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what stands there before the cast,
    monkeypatch.setattr(stage, "Advantages", SimpleNamespace)  # which a record would refuse
    advantages = run(given, torch.ones(P * K, *GRID), settings, trust, contrast_coef=0.5)
    assert advantages.field.dtype == torch.float64
    assert advantages.term.abs().max() == 0.9
    assert advantages.term.shape[0] == q * (2 if contrast == "term" else 1)
    everywhere = advantages.term.flatten(1)[..., None, None, None].expand_as(advantages.field)
    torch.testing.assert_close(advantages.field, everywhere, rtol=0, atol=1e-12)


def test_the_scalar_terms_do_not_know_of_it():
    given = drawn()
    advantages = run(given, maps(), config(best_of_n=2))
    plain, _ = build(
        given, trusting(given), AdvantageConfig(best_of_n=2), torch.arange(P), RewardHistory(), map=maps()
    )
    assert torch.equal(advantages.term, plain.term)
    assert torch.equal(advantages.keep, plain.keep)
    assert plain.field is None


def test_equal_products_are_zero_and_equal_rewards_are_told_apart_by_maps():
    map_ = torch.stack([torch.full(GRID, 0.7), torch.full(GRID, 0.7), torch.full(GRID, 0.7)])
    equal = rewards([[[0.3], [0.3], [0.3]]])
    assert run(equal, map_).field.eq(0).all()
    assert run(rewards([[[0.0], [0.0], [0.0]]]), torch.rand(3, *GRID)).field.eq(0).all()
    map_[0, 0, 0, 0] = 0.1
    field = run(equal, map_).field
    assert field[0, 0, 0, 0, 0] < 0 < field[0, 1, 0, 0, 0]
    assert field[..., 1:].eq(0).all()


def test_a_position_where_all_maps_are_zero_is_not_trained():
    map_ = maps()
    map_[:, 0] = 0
    field = run(drawn(), map_).field
    assert field[:, :, 0].eq(0).all()
    assert field[:, :, 1].ne(0).all()


def test_invalid_samples_get_zero_and_move_nothing():
    valid = torch.ones(P, K, dtype=torch.bool)
    valid[0, 1] = valid[2] = False
    given = drawn()
    given = given.replace(term=torch.where(valid[..., None], given.term, torch.nan), valid=valid)
    map_ = maps()
    field = run(given, map_).field
    assert field[:, ~valid.flatten()].eq(0).all()
    other = torch.where(valid.flatten()[:, None, None, None], map_, 5.0)
    assert torch.equal(run(given, other).field, field)
    alone = rewards(given.term[:1, [0, 2, 3]])
    torch.testing.assert_close(run(alone, map_[[0, 2, 3]]).field, field[:, [0, 2, 3]], rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_placement_does_not_matter(size):
    """Ranks that gather each other's maps make the rows of one process, bit for bit; groups straddle them."""
    given, map_ = drawn(2), maps()
    settings = config(combine=Combine.separate_terms)
    whole = run(given, map_, settings)
    calls = []

    def gather(local_maps):
        calls.append(len(local_maps))
        return map_

    pieces = []
    for rank in range(size):
        rows = World(rank=rank, size=size).rows(P * K)
        pieces.append(run(given, map_[rows.start : rows.stop], settings, rows=rows, gather=gather))
    assert torch.equal(Advantages.concatenate(pieces).field, whole.field)
    assert sum(calls) == P * K
    assert len(calls) == size  # once on every rank


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": AdvantagePreset.ddpo},
        {"std_scope": StdScope.batch},
        {"combine": Combine.gdpo},
    ],
)
def test_statistics_beyond_the_group_are_refused(changes):
    with pytest.raises(ValueError, match=r"inside their group only; type advantage\.preset=flow_grpo"):
        run(drawn(), maps(), config(**changes))


def test_no_map_is_an_error():
    given = drawn()
    with pytest.raises(ValueError, match=r"there are none; type advantage\.map\.source=psm"):
        build(given, trusting(given), config(), torch.arange(P), RewardHistory())
