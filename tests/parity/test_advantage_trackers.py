"""z-scores against the per-prompt trackers of flow_grpo, DiffusionNFT and ddpo-pytorch (stat_trackers.npz).

Prompts have unequal numbers of samples, one all equal rewards, one a single sample. For flow_grpo both give 0
as here. We depart in one place: a prompt whose rewards are all equal gets exactly 0 by comparison, whatever
its rewards are; the trackers leave the rounding error of the mean (none at the 0.25 of these data).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlvis.advantage.normalise import RULES, group_zscore, history_zscore
from rlvis.records import RewardHistory
from rlvis.schema import AdvantagePreset, StdScope

DATA = np.load(Path(__file__).parent / "data" / "stat_trackers.npz")
PROMPTS = DATA["prompts"]
IDS = np.unique(PROMPTS)
FLOW = RULES[AdvantagePreset.flow_grpo]
SCOPES = [StdScope.group, StdScope.batch]


def groups(flat):
    """The flat rewards as [P, K] padded with NaN, and the mask of what is there."""
    width = max((i == PROMPTS).sum() for i in IDS)
    out = torch.full((len(IDS), width), float("nan"), dtype=torch.float64)
    for row, i in enumerate(IDS):
        values = flat[i == PROMPTS]
        out[row, : len(values)] = torch.from_numpy(values)
    return out, out.isfinite()


def close(z, name, published):
    expected, there = groups(published)
    error = (z[there] - expected[there]).abs().max().item() / expected[there].abs().max().item()
    print(f"{name}: {error:.2e}")  # pytest -s shows the maxima
    assert error <= 1e-10


@pytest.mark.parametrize("peer", ["fg", "nft"])
@pytest.mark.parametrize("scope", SCOPES)
def test_flow_grpo_and_nft(peer, scope):
    values, valid = groups(DATA["rewards1"])
    name = f"{peer}_{'group' if scope is StdScope.group else 'global'}"
    close(group_zscore(values, valid, FLOW, scope), name, DATA[name])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("column", [0, 1])
def test_flow_grpo_with_rewards_per_time_step(scope, column):
    values, valid = groups(DATA["rewards2"][:, column])
    name = f"fg_{'group' if scope is StdScope.group else 'global'}2"
    close(group_zscore(values, valid, FLOW, scope), name, DATA[name][:, column])


def test_equal_rewards_and_singletons_are_zero_there_too():
    constant, single = PROMPTS == 2, PROMPTS == 5
    assert (DATA["fg_group"][constant | single] == 0).all()
    assert np.ptp(DATA["rewards1"][constant]) == 0


def test_ddpo_over_three_calls():
    """Below 16 remembered rewards a prompt is compared with the batch, so even equal rewards have an
    advantage: kept here.

    From the second call on, the past of the prompt with equal rewards (0.25, then 0.5, 0.75) is no longer
    constant.
    """
    history = RewardHistory()
    for call in (1, 2, 3):
        values, valid = groups(DATA["rewards1"] * call)
        z, history = history_zscore(
            values, valid, RULES[AdvantagePreset.ddpo], torch.from_numpy(IDS), history
        )
        close(z, f"ddpo_adv_{call}", DATA[f"ddpo_adv_{call}"])
    assert (DATA["ddpo_adv_1"][PROMPTS == 2] != 0).all()
    assert max(len(v) for v in history.values.values()) == 32
