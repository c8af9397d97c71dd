"""What a run is made of, what one step hands to the next, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.data.prompts import PromptSet
from rlvis.evaluation.prompts import HeldOut
from rlvis.models.ema import Ema
from rlvis.models.policy import Policy
from rlvis.observe.sentinels import Watch
from rlvis.records import (
    Advantages,
    PolicyUpdate,
    PriorState,
    PromptBatch,
    RewardHistory,
    Rewards,
    Trajectories,
    Trust,
)
from rlvis.reward.contract import Term
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.schema import Config
from rlvis.update.faults import Broken

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
class StepRecords:
    """All records of one step; trajectories without media."""

    prompts: PromptBatch
    trajectories: Trajectories
    rewards: Rewards
    trust: Trust
    advantages: Advantages
    update: PolicyUpdate
    truncated: int
    seconds: dict[str, float]
    peak: dict[str, int]  # bytes on a GPU by stage; empty on a CPU
    map: Tensor | None = None  # of this rank's rows, whatever it was applied to
    failed_maps: int = 0  # of this rank's rows
    thumbnails: Tensor | None = None  # uint8 [N,M,3,y,x] of this rank's rows, where they were asked for
    refilled: int = 0  # samples of all ranks that were drawn afresh, over all rounds


class BrokenStepError(RuntimeError):
    """A step that was stopped before the optimizer could spoil the weights: what was not finite, and the
    records that `stage=update` replays (none where the rollout broke).
    """

    def __init__(
        self,
        message: str,
        broken: Broken,
        prompts: PromptBatch,
        trajectories: Trajectories | None = None,
        advantages: Advantages | None = None,
    ) -> None:
        super().__init__(message)
        self.broken, self.prompts = broken, prompts
        self.trajectories, self.advantages = trajectories, advantages
