"""What must hold inside `advantage`, and between it and the log-probs of the sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rlvis.findings import Finding, mistake
from rlvis.schema import AdvantageConfig, AdvantagePreset, LogProbForm, RatioScope, Reduction, SamplerConfig


def advantage_errors(advantage: AdvantageConfig, sampler: SamplerConfig) -> Iterator[Finding]:
    """What is wrong with guard, statistics, clipping of advantages, KL and sign."""
    if advantage.guard is not None and advantage.ratio_scope is not RatioScope.sample:
        yield mistake(
            "advantage.guard normalises the ratio of a whole sample, but "
            f"advantage.ratio_scope={advantage.ratio_scope.value}",
            "advantage.ratio_scope=sample or advantage.guard=null",
        )
    if advantage.guard is not None and sampler.logprob is LogProbForm.squared:
        yield mistake(
            "advantage.guard is derived for Gaussian log-probs, but sampler.logprob=squared has no variance "
            "to normalise by",
            "sampler.logprob=gaussian or advantage.guard=null",
        )
    if advantage.guard is not None and advantage.map.channel_reduction is Reduction.sum:
        yield mistake(
            "advantage.guard is derived for log-probs averaged over channels, but "
            "advantage.map.channel_reduction=sum",
            "advantage.map.channel_reduction=mean or advantage.guard=null",
        )
    if advantage.preset is AdvantagePreset.ddpo and advantage.std_scope is not None:
        yield mistake(
            f"advantage.std_scope={advantage.std_scope.value} does nothing with advantage.preset=ddpo, whose "
            "statistics come from the prompt's history",
            "advantage.std_scope=null or advantage.preset=flow_grpo",
        )
    if not advantage.adv_clip > 0:
        yield mistake(
            f"advantage.adv_clip={advantage.adv_clip}: wanted a number above 0",
            "advantage.adv_clip=5",
            why="the papers use 5",
        )
    if not 0 <= advantage.kl_beta < math.inf:
        yield mistake(
            f"advantage.kl_beta={advantage.kl_beta}: wanted 0 (no KL) or a positive number",
            "advantage.kl_beta=0.01",
        )
    if advantage.sign not in (1.0, -1.0):
        yield mistake(
            f"advantage.sign={advantage.sign}: wanted 1, or -1 to train against the reward",
            "advantage.sign=1",
        )


def clip_range_errors(value: Any) -> Iterator[Finding]:
    """What is wrong with a clip range: null, a number, or a pair."""

    def positive(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x < math.inf

    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(positive(x) for x in value)
    if not (value is None or positive(value) or pair):
        yield mistake(
            f"advantage.clip_range={value}: wanted null (1e-4 or its equivalent), a positive number, or two "
            "for below and above 1",
            "advantage.clip_range=1e-4 or advantage.clip_range=[1e-4,2e-4]",
        )
    below = value[0] if pair else value
    if positive(below) and below >= 1:
        yield mistake(
            f"advantage.clip_range={value} lets the ratio fall to {1 - below:g}, and a ratio is above 0",
            "advantage.clip_range=1e-4",
            why="log-probs are means over all values of a latent, so the papers use 1e-5 to 1e-3",
        )
