"""What must hold inside `advantage`, and between it and the log-probs of the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    ApplyTo,
    Combine,
    LogProbForm,
    RatioScope,
    Reduction,
    SamplerConfig,
    StdScope,
)
from rlvis.schema.key import text


def advantage_errors(advantage: AdvantageConfig, sampler: SamplerConfig) -> Iterator[Finding]:
    """What is wrong with guard, statistics and transforms."""
    if advantage.guard is not None and advantage.ratio_scope is not RatioScope.sample:
        yield mistake(
            "advantage.guard normalises the ratio of a whole sample, but "
            f"advantage.ratio_scope={advantage.ratio_scope}",
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
            f"advantage.std_scope={advantage.std_scope} does nothing with advantage.preset=ddpo, whose "
            "statistics come from the prompt's history",
            "advantage.std_scope=null or advantage.preset=flow_grpo",
        )
    if advantage.std_scope is StdScope.none and advantage.combine is Combine.gdpo:
        yield mistake(
            "advantage.std_scope=none leaves rewards in their units, and advantage.combine=gdpo divides each "
            "by its standard deviation, and their sum by that of the batch",
            "advantage.std_scope=null or advantage.combine=weighted_sum",
        )
    yield from _transforms(advantage)


def _transforms(advantage: AdvantageConfig) -> Iterator[Finding]:
    """Whether there are such transforms that take their keywords, and something reads what they make."""
    if not advantage.transform and not advantage.transform_kwargs:
        return
    from rlvis.advantage.transform import transforms_of

    try:
        transforms_of(advantage)
    except ConfigError as error:
        yield from error.findings
    else:
        if advantage.map.apply_to is ApplyTo.reward:
            yield mistake(
                f"advantage.transform={text(advantage.transform)} changes one advantage a sample, and "
                "advantage.map.apply_to=reward trains with one at each position, made from the rewards",
                "advantage.map.apply_to=advantage, or advantage.transform=[]",
            )


def clip_range_errors(value: Any) -> Iterator[Finding]:
    """What is wrong with a clip range whose numbers are above 0: it is null, a number, or a pair."""

    def number(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool)

    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(number, value))
    if not (value is None or number(value) or pair):
        yield mistake(
            f"advantage.clip_range={value}: wanted null (1e-4 or its equivalent), a positive number, or two "
            "for below and above 1",
            "advantage.clip_range=1e-4 or advantage.clip_range=[1e-4,2e-4]",
        )
    below = value[0] if pair else value
    if number(below) and below >= 1:
        yield mistake(
            f"advantage.clip_range={value} lets the ratio fall to {1 - below:g}, and a ratio is above 0",
            "advantage.clip_range=1e-4",
            why="log-probs are means over all values of a latent, so the papers use 1e-5 to 1e-3",
        )
