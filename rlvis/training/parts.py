"""What a run is made of, what one step hands to the next, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.data.prompts import PromptSet
from rlvis.evaluation.prompts import HeldOut
from rlvis.models.ema import Ema
from rlvis.models.policy import Policy
from rlvis.observe.sentinels import Watch
from rlvis.records import (
    Advantages,
    PriorState,
    PromptBatch,
    RewardHistory,
    Rewards,
    Trajectories,
)
from rlvis.reward.contract import Term
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.runtime.non_finite import NonFinite
from rlvis.schema import Config

# Scores of other samples of the same prompts, for priors that read them; see reference.py.
Lookup = Callable[[PromptBatch, PriorState], Rewards | None]


@dataclass(frozen=True)
class Parts:
    """What a run is made of; nothing in here changes except weights."""

    config: Config
    world: World
    prompts: PromptSet
    terms: list[Term]
    policy: Policy
    engine: Engine
    ema: Ema | None
    psm: PerceptualMap | None = None
    reference: Lookup | None = None
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class Memory:
    """What one step hands to the next besides weights (checkpointed)."""

    prior: PriorState
    history: RewardHistory
    sentinels: Watch = field(default_factory=Watch)


MEMORY_KINDS: dict[str, Any] = {"prior": PriorState, "history": RewardHistory, "sentinels": Watch}


@dataclass(frozen=True)
class Hooks:
    """What is called inside a training step.

    advance: after every forward of the sampler (progress). watch: with each shard of this rank while it holds
    its media; not with refilled samples. keep_thumbnails: keep small pictures of the samples in the records.
    """

    advance: Callable[[], None] = lambda: None
    watch: Callable[[Trajectories], None] = lambda piece: None
    keep_thumbnails: bool = False


class Gate(Protocol):
    """What may refuse a run before it trains; both are collectives and raise ConfigError on every rank."""

    def ahead(self, config: Config, world: World) -> None:
        """Before weights are read."""

    def admit(self, parts: Parts, memory: Memory, step: int, run_dir: Path) -> None:
        """Look at an assembled run, as training step `step` will find it."""


class BrokenStepError(RuntimeError):
    """A step that was stopped before the optimizer could spoil the weights: what was not finite, and the
    records that `stage=update` replays (none where the rollout broke).
    """

    def __init__(
        self,
        message: str,
        where: NonFinite,
        prompts: PromptBatch,
        trajectories: Trajectories | None = None,
        advantages: Advantages | None = None,
    ) -> None:
        super().__init__(message)
        self.where, self.prompts = where, prompts
        self.trajectories, self.advantages = trajectories, advantages
