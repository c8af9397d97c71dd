"""Contradictions in the sentinels' options, and what an action needs of the rest of a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.schema import Config, SentinelAction, SentinelConfig

ACTING = (SentinelAction.raise_kl, SentinelAction.rollback, SentinelAction.stop)


def sentinel_mistakes(config: Config) -> Iterator[str]:
    """One message each."""
    watch = config.sentinels
    if watch.action is SentinelAction.off:
        return
    for key, value, least in (
        ("baseline", watch.baseline, 5),
        ("patience", watch.patience, 1),
        ("rollbacks", watch.rollbacks, 1),
    ):
        if value < least:
            yield f"sentinels.{key}={value}: wanted at least {least}; type sentinels.{key}={least}"
    for key, number in (("threshold", watch.threshold), ("kl", watch.kl)):
        if not 0 < number < math.inf:
            usual = getattr(SentinelConfig(), key)
            yield f"sentinels.{key}={number}: wanted a positive number; type sentinels.{key}={usual:g}"
    for key, needed in (("kl", SentinelAction.raise_kl), ("rollbacks", SentinelAction.rollback)):
        usual = getattr(SentinelConfig(), key)
        if getattr(watch, key) != usual and watch.action is not needed:
            yield (
                f"sentinels.{key}={getattr(watch, key)} does nothing with sentinels.action="
                f"{watch.action.value}; type sentinels.action={needed.value} or sentinels.{key}={usual:g}"
            )
    first = watch.baseline + watch.patience
    if watch.action in ACTING and config.train.steps < first:
        yield (
            f"sentinels.action={watch.action.value} can never act: the baseline takes {watch.baseline} steps "
            f"and an alarm {watch.patience} more, and the run has {config.train.steps}; type train.steps="
            f"{first} or more, a smaller sentinels.baseline, or sentinels.action=warn"
        )
    if watch.action is SentinelAction.rollback:
        yield from _rollback(config)


def _rollback(config: Config) -> Iterator[str]:
    """There is always a checkpoint from before the first unusual step."""
    watch, train = config.sentinels, config.train
    if not 0 < train.save_every <= watch.baseline:
        yield (
            f"sentinels.action=rollback goes back to a checkpoint from before the first unusual step, which "
            f"may be step {watch.baseline + 1}, and train.save_every={train.save_every} writes "
            f"{'none on the way' if not train.save_every else f'the first after step {train.save_every}'}; "
            f"type train.save_every={watch.baseline}"
        )
        return
    rounds = max(watch.patience, config.eval.every)  # steps between the first unusual one and the alarm
    needed = 1 + math.ceil(rounds / train.save_every)
    if train.keep < needed:
        yield (
            f"sentinels.action=rollback with train.keep={train.keep}: up to {needed - 1} checkpoints are "
            f"written in the {rounds} steps from the first unusual one to the alarm, and the one before them "
            f"must still be there; type train.keep={needed}"
        )


def needs_reference(config: Config) -> bool:
    """Whether the policy before training must stay at hand: for a KL term, or one that an alarm may add."""
    return config.advantage.kl_beta > 0 or config.sentinels.action is SentinelAction.raise_kl
