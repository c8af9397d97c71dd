"""z-scores of rewards, float64 on the CPU, over valid samples only.

A preset fixes what releases differ in: ddof, epsilon, and which samples the statistics come from. Unlike all
of them, samples whose statistics come from equal rewards get exactly 0 by comparison: arithmetic leaves 1e-8
(12 times 0.7) and, divided by a standard deviation of the same size, a release in float32 makes advantages of
up to 6 out of it. Sums are those of rlvis/runtime/sums.py: permuting samples or prompts changes no bit.
Presets: DanceGRPO arXiv 2505.07818, Flow-GRPO 2505.05470, DDPO 2305.13301, GDPO's floor as in its
flow-matching release.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.records import RewardHistory
from rlvis.runtime.sums import ordered_sum
from rlvis.schema import AdvantagePreset, StdScope

DDPO_BUFFER = 32  # rewards remembered for each prompt
DDPO_MIN_COUNT = 16  # from this many on, a prompt is compared with itself, before with the batch


@dataclass(frozen=True, slots=True)
class Rule:
    """z = (x - mean) / (std + eps), or / max(std, eps) with `floor`.

    history: the statistics are those of the prompt's past, as in DDPO.
    """

    ddof: int
    eps: float
    floor: bool = False
    history: bool = False

    def divisor(self, std: Tensor) -> Tensor:
        """What deviations are divided by, for standard deviations of any shape."""
        return std.clamp(min=self.eps) if self.floor else std + self.eps


RULES = {
    AdvantagePreset.dance: Rule(ddof=1, eps=1e-8),
    AdvantagePreset.flow_grpo: Rule(ddof=0, eps=1e-4),
    AdvantagePreset.ddpo: Rule(ddof=0, eps=1e-6, history=True),
    AdvantagePreset.gdpo: Rule(ddof=0, eps=1e-6, floor=True),
}


def group_zscore(values: Tensor, valid: Tensor, rule: Rule, std_scope: StdScope = StdScope.group) -> Tensor:
    """z-score of each sample against its own group (row).

    values: [P, K] float64, anything (NaN too) where not valid. valid: [P, K] bool. std_scope: whose standard
    deviation divides: the group's, that of all valid samples (Flow-GRPO's global std), or none (Dr.GRPO,
    arXiv 2503.20783: the deviation itself, in units of the reward); the mean is the group's in all.
    Returns [P, K] float64: 0 where not valid, and in groups whose valid values are all equal or fewer than
    two.
    """
    _check(values, valid)
    count = valid.sum(-1, keepdim=True)
    mean = ordered_sum(torch.where(valid, values, 0.0), -1)[:, None] / count.clamp(min=1)
    deviation = torch.where(valid, values - mean, 0.0)
    if std_scope is StdScope.group:
        std = (ordered_sum(deviation.square(), -1)[:, None] / (count - rule.ddof).clamp(min=1)).sqrt()
        deviation = deviation / rule.divisor(std)
    elif std_scope is StdScope.batch:
        deviation = deviation / rule.divisor(_std(values[valid], rule.ddof))
    return torch.where(valid & _varied(values, valid), deviation, 0.0)


def contrast_zscore(values: Tensor, valid: Tensor, rule: Rule) -> Tensor:
    """z-score of a contrasted reward against its own group, where only the shape of the values has a meaning.

    values are known up to a positive factor per group, so the rule's epsilon is relative to the group's
    spread: each group is brought to a range of 1 first. Always the group's own statistics, whatever the
    preset compares rewards with. Shapes, and what becomes 0, as in `group_zscore`.
    """
    _check(values, valid)
    highest = values.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    lowest = values.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    spread = highest - lowest
    shape = torch.where(valid & (spread > 0), (values - lowest) / torch.where(spread > 0, spread, 1.0), 0.0)
    return group_zscore(shape, valid, rule)


def batch_zscore(values: Tensor, valid: Tensor, rule: Rule) -> Tensor:
    """z-score of each sample against all valid samples of the step. Shapes as in `group_zscore`."""
    _check(values, valid)
    return torch.where(valid, _against(values, values[valid], rule), 0.0)


def history_zscore(
    values: Tensor,
    valid: Tensor,
    rule: Rule,
    prompt_index: Tensor,
    history: RewardHistory,
    *,
    name: str = "",
    buffer: int = DDPO_BUFFER,
    min_count: int = DDPO_MIN_COUNT,
) -> tuple[Tensor, RewardHistory]:
    """z-score of each sample against the last `buffer` rewards of its prompt, this step's included (DDPO's
    tracker).

    values, valid: [P, K] as in `group_zscore`. prompt_index: [P] int64, the key of the history; prompts that
    occur twice in a step share it. A prompt with fewer than `min_count` remembered rewards is compared with
    the step's valid samples.
    name: tells the histories of several rewards apart. The test for equal rewards is on what the statistics
    come from, not on the group: a group of one, or of equal rewards, still is better or worse than its
    prompt's past. Which rewards are the last `buffer` follows the order of samples, as in DDPO.
    Returns [P, K] float64 and the new history; the one passed in is unchanged.
    """
    _check(values, valid)
    keys = [f"{i}/{name}" if name else str(i) for i in prompt_index.tolist()]
    if len(keys) != values.shape[0]:
        raise ValueError(
            f"history_zscore: got {len(keys)} prompt indices for {values.shape[0]} groups of rewards"
        )
    remembered = dict(history.values)
    for p, key in enumerate(keys):
        fresh = values[p][valid[p]]
        if len(fresh):
            past = remembered.get(key, fresh.new_empty(0))
            remembered[key] = torch.cat([past, fresh])[-buffer:]
    everyone = values[valid]
    z = torch.zeros_like(values)
    for p, key in enumerate(keys):
        past = remembered.get(key, everyone)
        z[p] = _against(values[p], past if len(past) >= min_count else everyone, rule)
    return torch.where(valid, z, 0.0), RewardHistory(values=remembered)


def _check(values: Tensor, valid: Tensor) -> None:
    assert values.dtype == torch.float64, f"advantages are computed in float64, got {values.dtype}"
    assert valid.dtype == torch.bool, f"the mask of valid samples is bool, got {valid.dtype}"
    assert values.shape == valid.shape, f"values {list(values.shape)} and mask {list(valid.shape)} differ"
    assert values.ndim == 2, f"rewards are [P, K], got {list(values.shape)}"


def _varied(values: Tensor, valid: Tensor) -> Tensor:
    """[P, 1]: whether a group has two different valid values."""
    infinity = float("inf")
    highest = values.masked_fill(~valid, -infinity).amax(-1, keepdim=True)
    return highest > values.masked_fill(~valid, infinity).amin(-1, keepdim=True)


def _std(population: Tensor, ddof: int) -> Tensor:
    if len(population) <= ddof:
        return population.new_zeros(())
    return (ordered_sum((population - _mean(population)).square()) / (len(population) - ddof)).sqrt()


def _mean(population: Tensor) -> Tensor:
    return ordered_sum(population) / len(population)


def _against(values: Tensor, population: Tensor, rule: Rule) -> Tensor:
    if len(population) < 2 or bool(population.max() == population.min()):
        return torch.zeros_like(values)
    return (values - _mean(population)) / rule.divisor(_std(population, rule.ddof))
