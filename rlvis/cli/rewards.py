"""The reward that words compose, for the verbs that score without a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvis.findings import ConfigError, mistake

if TYPE_CHECKING:
    from rlvis.schema import RewardConfig


def compose_reward(overrides: Sequence[str], unsaid: str) -> RewardConfig:
    """The `reward` of a configuration; unsaid: what to say where no word names one.

    Raises ConfigError for that, for values that are missing or out of their domain, and for scorers that do
    not exist or do not take their kwargs.
    """
    from omegaconf import OmegaConf

    from rlvis.checks.domain import domain_errors
    from rlvis.checks.reward import scorer_errors
    from rlvis.compose.command import compose
    from rlvis.schema import Config, RewardConfig

    if not any("reward" in word.split("=")[0] or word.startswith("experiment=") for word in overrides):
        raise ConfigError(unsaid)
    node = compose(overrides).config.reward
    if missing := sorted(OmegaConf.missing_keys(node)):
        raise ConfigError(mistake(f"reward.{missing[0]} is not set", f"reward.{missing[0]}=..."))
    reward = OmegaConf.to_object(node)
    assert isinstance(reward, RewardConfig)
    if errors := list(domain_errors(Config(reward=reward), ("reward",))) or list(scorer_errors(reward)):
        raise ConfigError(*errors)
    return reward


def require_reachable(reward: RewardConfig) -> None:
    """Ask the hub for what the scorers will load, before they try for long. Raises ConfigError."""
    from rlvis.doctor import hub
    from rlvis.schema import Executor

    names = [] if reward.executor is Executor.http else list(hub.judges(reward.terms, "reward"))
    if findings := hub.unreachable(names):
        raise ConfigError(findings[0])
