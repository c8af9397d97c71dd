"""Trackers, sample sheets and the sentinels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from rlvis.schema.key import Key

WATCHING = ("sentinels.action=warn|rollback|stop",)


@dataclass
class TrackerConfig:
    """Where metrics go beside metrics.jsonl, and sheets of samples."""

    wandb: Annotated[bool, Key("also to Weights & Biases; offline when no key is set")] = False
    project: Annotated[str, Key("of Weights & Biases", only=("tracker.wandb=true",))] = "rlvis"
    tensorboard: Annotated[bool, Key("also to TensorBoard")] = False
    samples_every: Annotated[
        int,
        Key("between two sheets of fixed prompts and noise; 0: never", "training steps", least=0, most=10**7),
    ] = 5
    samples: Annotated[int, Key("on a sheet", "prompts", least=1, most=256)] = 8


class SentinelAction(StrEnum):
    """What an alarm of the sentinels does; off: nobody looks."""

    off = "off"
    warn = "warn"
    rollback = "rollback"
    stop = "stop"


@dataclass
class SentinelConfig:
    """Looks at the samples themselves for what a reward can be fooled with; see docs/sentinels.md."""

    action: Annotated[SentinelAction, Key("what an alarm does; off: nobody looks")] = SentinelAction.warn
    baseline: Annotated[
        int, Key("that say what is usual", "training steps", least=5, most=10**6, only=WATCHING)
    ] = 10
    threshold: Annotated[
        float,
        Key(
            "at which a statistic is unusual", "deviations of the baseline", above=0, most=1e6, only=WATCHING
        ),
    ] = 6.0
    patience: Annotated[
        int, Key("in a row before the alarm", "unusual steps", least=1, most=10**6, only=WATCHING)
    ] = 3
    rollbacks: Annotated[
        int,
        Key(
            "how often to go back, with half the learning rate, before the run stops",
            least=1,
            most=1000,
            only=("sentinels.action=rollback",),
        ),
    ] = 1
