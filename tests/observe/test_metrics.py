"""The table of keys, and reward and advantage metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlvis.observe import metric_table, metrics
from rlvis.records import Advantages, Rewards, Trust
from rlvis.schema import Combine


def rewards(term: list, valid: list | None = None, weights: tuple[float, ...] = (1.0,)) -> Rewards:
    tensor = torch.tensor(term, dtype=torch.float64)
    mask = torch.ones(tensor.shape[:2], dtype=torch.bool) if valid is None else torch.tensor(valid)
    names = ("a", "b")[: tensor.shape[2]]
    return Rewards(term=tensor, names=names, weights=weights, valid=mask, latency=(0.25,) * len(names))


def advantages(term: list, keep: list | None = None, coef: tuple[float, ...] = (1.0,)) -> Advantages:
    tensor = torch.tensor(term, dtype=torch.float64)
    mask = torch.ones(tensor.shape[1:], dtype=torch.bool) if keep is None else torch.tensor(keep)
    names = tuple(f"t{i}" for i in range(len(coef)))
    return Advantages(term=tensor, coef=torch.tensor(coef, dtype=torch.float64), names=names, keep=mask)


def test_reward_metrics_by_hand() -> None:
    # combined a + 2 b: [1, 3], [5, 5]; the third group has one valid sample, 9
    term = [[[1, 0], [1, 1]], [[5, 0], [3, 1]], [[9, 0], [math.nan, 0]]]
    values = metrics.reward_metrics(rewards(term, [[True, True], [True, True], [True, False]], (1.0, 2.0)))
    assert values["reward/mean"] == pytest.approx(23 / 5)
    assert values["reward/std"] == pytest.approx(math.sqrt((1 + 9 + 25 + 25 + 81) / 5 - (23 / 5) ** 2))
    assert values["reward/a/mean"] == pytest.approx(19 / 5)
    assert values["reward/b/std"] == pytest.approx(math.sqrt(0.4 * 0.6))
    assert values["reward/valid_fraction"] == pytest.approx(5 / 6)
    assert values["reward/invalid_count"] == 1
    assert values["reward/b/latency"] == 0.25
    assert values["group/std_mean"] == pytest.approx(0.5)  # (1 + 0) / 2; a group of one has no spread
    assert values["group/zero_variance_fraction"] == pytest.approx(2 / 3)
    metric_table.check(values)


def test_no_valid_sample_gives_counts_and_no_mean() -> None:
    values = metrics.reward_metrics(rewards([[[math.nan], [math.inf]]], [[False, False]]))
    assert values["reward/invalid_count"] == 2
    assert values["reward/valid_fraction"] == 0
    assert values["group/zero_variance_fraction"] == 1
    assert not {"reward/mean", "reward/std", "group/std_mean"} & set(values)


def test_one_sample_a_prompt_has_no_group_metrics() -> None:
    values = metrics.reward_metrics(rewards([[[1.0]], [[2.0]]]))
    assert not [key for key in values if key.startswith("group/")]


def test_equal_rewards_are_zero_variance_though_their_std_is_not_zero() -> None:
    values = metrics.reward_metrics(rewards([[[0.7]] * 12]))
    assert values["group/zero_variance_fraction"] == 1


def test_advantage_metrics_by_hand() -> None:
    term = [[[5.0, -1.0, 2.0, 0.0]], [[2.0, -5.0, 0.0, 4.0]]]
    adv = advantages(term, [[True, True, True, False]], coef=(1.0, 0.5))
    values = metrics.advantage_metrics(adv, rewards([[[3.0], [1.0], [0.0], [0.0]]]), adv_clip=5.0)
    # sums: 6, -3.5, 2 (the fourth is not trained); reward - mean: 2, 0, -1
    assert values == {
        "advantage/kept_fraction": 0.75,
        "advantage/abs_mean": pytest.approx(11.5 / 3),
        "advantage/max": 6.0,
        "advantage/clamped_fraction": pytest.approx(2 / 6),
        "advantage/reward_agreement": 0.5,
    }
    metric_table.check(values)


@pytest.mark.parametrize(("sign", "agreement"), [(1.0, 1.0), (-1.0, 0.0)])
def test_agreement_tells_training_against_the_reward(sign: float, agreement: float) -> None:
    r = rewards([[[0.1], [0.4], [0.2]], [[0.7], [0.7], [0.7]]])
    a = advantages([[[-1.0 * sign, 1.0 * sign, -0.2 * sign], [sign * 1e-9] * 3]])
    assert metrics.advantage_metrics(a, r, adv_clip=5.0)["advantage/reward_agreement"] == agreement


def test_nothing_trained_gives_only_the_fraction() -> None:
    a = advantages([[[0.0, 0.0]]], [[False, False]])
    assert metrics.advantage_metrics(a, rewards([[[0.0], [1.0]]]), adv_clip=5.0) == {
        "advantage/kept_fraction": 0.0
    }


def test_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'reward/maen'.*nearest is 'reward/mean'.*add it to KEYS"):
        metric_table.check(["reward/mean", "reward/maen"])


def test_patterns_match_one_name_only() -> None:
    metric_table.check(["reward/hps_v2.1/mean", "reward/ocr/std"])
    for key in ("reward/a/b/mean", "reward//mean", "reward/a/median", "xreward/a/mean"):
        with pytest.raises(ValueError, match="not in the table"):
            metric_table.check([key])


def test_markdown_has_a_row_of_four_cells_for_every_key() -> None:
    lines = metric_table.describe().splitlines()
    assert len(lines) == 2 + len(metric_table.KEYS)
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)
    assert all(row.meaning and row.healthy for row in metric_table.KEYS.values())


class TestTrust:
    def scored(self, values, weights=(1.0,)):
        term = torch.tensor(values, dtype=torch.float64)
        term = term[..., None] if term.ndim == 2 else term
        return Rewards(
            term=term,
            names=tuple("ab"[: term.shape[-1]]),
            weights=weights,
            valid=torch.isfinite(term).all(-1),
            latency=(0.0,) * term.shape[-1],
        )

    def trust(self, weight, **changes):
        trust = Trust(weight=torch.tensor(weight, dtype=torch.float64), contrast_replaces=False)
        return trust.replace(**changes)

    def test_weights_and_the_prior(self):
        column = torch.ones(2, 1, dtype=torch.float64)
        rewards = self.scored([[1.0, 3.0], [5.0, 5.0]])
        trust = self.trust(
            [[0.5], [1.5]], anchor_mean=4 * column, anchor_var=3 * column, anchor_count=8 * column
        )
        values = metrics.trust_metrics(trust, rewards, Combine.weighted_sum)
        metric_table.check(values)
        assert values == pytest.approx(
            {
                "trust/weight_mean": 1.0,
                "trust/weight_min": 0.5,
                "trust/weight_max": 1.5,
                "trust/weight_std": 0.5,
                "trust/effective_groups": 4 / 2.5,
                "trust/prior_mean": 4.0,
                "trust/prior_gap": 1.5,  # |2 - 4| and |5 - 4|
                "trust/posterior_gap": (2 * 3 / (3 + 1) + 1) / 2,  # s^2 / n is 2 / 2 and 0
            }
        )

    def test_groups_without_a_valid_sample_are_left_out(self):
        nan = float("nan")
        values = metrics.trust_metrics(
            self.trust([[0.5], [9.0]]), self.scored([[1.0, 2.0], [nan, nan]]), Combine.gdpo
        )
        assert (values["trust/weight_max"], values["trust/effective_groups"]) == (0.5, 1.0)
        assert metrics.trust_metrics(self.trust([[0.5]]), self.scored([[nan, nan]]), Combine.gdpo) == {}

    @pytest.mark.parametrize(("combine", "share"), [(Combine.weighted_sum, 1.0), (Combine.gdpo, 0.0)])
    def test_inverted_pairs_are_those_of_the_objective(self, combine, share):
        """One reward of weight -1: as a sum its order is turned, as an objective of its own it is not."""
        contrast = torch.tensor([[[1.0], [2.0], [7.0]]], dtype=torch.float64)
        rewards = self.scored([[1.0, 2.0, float("nan")]], weights=(-1.0,))
        values = metrics.trust_metrics(self.trust([[1.0]], contrast=contrast), rewards, combine)
        assert values["trust/inverted_fraction"] == share

    def test_ties_are_no_pairs(self):
        contrast = torch.tensor([[[3.0], [1.0], [2.0]]], dtype=torch.float64)
        values = metrics.trust_metrics(
            self.trust([[1.0]], contrast=contrast), self.scored([[0.0, 0.0, 1.0]]), Combine.weighted_sum
        )
        assert values["trust/inverted_fraction"] == 0.5
