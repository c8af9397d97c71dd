"""Contradictions in the sentinels' options, and what an action needs of the rest of a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.schema import Config, SentinelAction

ACTING = (SentinelAction.rollback, SentinelAction.stop)


def sentinel_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with `sentinels`."""
    watch = config.sentinels
    if watch.action is SentinelAction.off:
        return
    first = watch.baseline + watch.patience
    if watch.action in ACTING and config.train.steps < first:
        yield mistake(
            f"sentinels.action={watch.action} can never act: the baseline takes {watch.baseline} steps "
            f"and an alarm {watch.patience} more, and the run has {config.train.steps}",
            f"train.steps={first} or more, a smaller sentinels.baseline, or sentinels.action=warn",
        )
    if watch.action is SentinelAction.rollback:
        yield from _rollback(config)


def _rollback(config: Config) -> Iterator[Finding]:
    """There is always a checkpoint from before the first unusual step."""
    watch, train = config.sentinels, config.train
    if not 0 < train.save_every <= watch.baseline:
        yield mistake(
            "sentinels.action=rollback goes back to a checkpoint from before the first unusual step, which "
            f"may be step {watch.baseline + 1}, and train.save_every={train.save_every} writes "
            f"{'none on the way' if not train.save_every else f'the first after step {train.save_every}'}",
            f"train.save_every={watch.baseline}",
        )
        return
    rounds = max(watch.patience, config.eval.every)  # steps between the first unusual one and the alarm
    needed = 1 + math.ceil(rounds / train.save_every)
    if train.keep < needed:
        yield mistake(
            f"sentinels.action=rollback with train.keep={train.keep}: up to {needed - 1} checkpoints are "
            f"written in the {rounds} steps from the first unusual one to the alarm, and the one before them "
            "must still be there",
            f"train.keep={needed}",
        )


def needs_reference(config: Config) -> bool:
    """Whether the policy before training must stay at hand: for a KL term."""
    return config.advantage.kl_beta > 0
