"""Trackers, sample sheets and the sentinels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass
class TrackerConfig:
    wandb: bool = False  # offline when no key is set
    project: str = "rlvis"
    tensorboard: bool = False
    samples_every: int = 5  # training steps between two sheets of fixed prompts and noise; 0: never
    samples: int = 8  # prompts on a sheet


class SentinelAction(Enum):
    """What an alarm of the sentinels does; off: nobody looks."""

    off = "off"
    warn = "warn"
    rollback = "rollback"
    stop = "stop"


@dataclass
class SentinelConfig:
    """Looks at the samples themselves for what a reward can be fooled with; see docs/sentinels.md."""

    action: SentinelAction = SentinelAction.warn
    baseline: int = 10  # training steps that say what is usual
    threshold: float = 6.0  # deviations of the baseline at which a statistic is unusual
    patience: int = 3  # unusual steps in a row before the alarm
    rollbacks: int = 1  # rollback: how often, with half the learning rate, before the run stops
