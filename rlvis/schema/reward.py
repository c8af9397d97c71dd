"""The reward terms, and how their scorers are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from omegaconf import MISSING

from rlvis.schema.key import Key

SERVERS = ("reward.executor=http",)
FAR, HERE = (
    120.0,
    3600.0,
)  # seconds that reward.timeout=null leaves to servers and actors, and to this process
CANARIES = ("reward.canary.every=set",)


class Executor(StrEnum):
    """Where scorers run: in turn with the rollout, beside it in a thread, on servers, in Ray actors."""

    inline = "inline"
    thread = "thread"
    http = "http"
    ray = "ray"


@dataclass
class RewardTerm:
    """One scorer: a name in rlvis.reward.scorers or a dotted path to a function `images, prompts, metadata ->
    scores`.
    """

    scorer: Annotated[
        str, Key("a module in rlvis/reward/scorers, or a dotted path to a function or class of one's own")
    ] = MISSING
    weight: Annotated[
        float, Key("in the reward; 0: scored and logged, not trained on", least=-1e9, most=1e9, usual=1)
    ] = 1.0
    kwargs: Annotated[dict[str, Any], Key("of the scorer, by its signature")] = field(default_factory=dict)
    frames: Annotated[
        Any,
        Key("of a clip that the scorer sees: all, first, last, middle, 'every N', or a list of positions"),
    ] = "all"


@dataclass
class CanaryConfig:
    """Fixed samples that are scored again and again: a scorer that changes its mind has drifted."""

    every: Annotated[
        int, Key("between two looks; 0: never", "training steps", least=0, most=10**7, usual=20)
    ] = 0
    samples: Annotated[
        int,
        Key(
            "of the first step that are kept for it; their spread is the unit of the tolerance",
            "samples",
            least=2,
            most=10**5,
            relation="at most the samples that the first process makes in a step",
            only=CANARIES,
        ),
    ] = 4
    tolerance: Annotated[
        float,
        Key(
            "of a change",
            "of the first scores' spread over the samples",
            above=0,
            most=1e6,
            only=CANARIES,
        ),
    ] = 1e-3


@dataclass
class RewardConfig:
    """The terms, and how they are asked."""

    terms: Annotated[dict[str, RewardTerm], Key("scorers, by a name of one's own")] = field(
        default_factory=dict
    )
    executor: Annotated[Executor, Key("where scorers run")] = Executor.inline
    servers: Annotated[
        list[str], Key("base addresses, as http://127.0.0.1:8700", path=True, only=SERVERS)
    ] = field(default_factory=list)
    token_env: Annotated[
        str | None, Key("environment variable with the servers' token; null: none", only=SERVERS)
    ] = "RLVIS_TOKEN"
    timeout: Annotated[
        float | None,
        Key(
            f"until an answer counts as lost; null: {FAR:g} of servers and actors, {HERE:g} in this process",
            "seconds",
            above=0,
            most=10**6,
            usual=FAR,
        ),
    ] = None
    patience: Annotated[
        float,
        Key(
            "that a step waits, its samples kept, for a scorer that is away: no connection, a server's 5xx, "
            "a dead process",
            "seconds",
            least=0,
            most=10**6,
            usual=600,
        ),
    ] = 0.0
    max_invalid_steps: Annotated[
        int,
        Key(
            "in a row without one valid reward (or that train nothing for another reason), after which the "
            "run saves and ends with exit code 3; 0: never",
            "training steps",
            least=0,
            most=10**7,
            usual=3,
        ),
    ] = 3
    hedge: Annotated[
        float | None,
        Key(
            "until a second server is asked as well; null: never",
            "seconds",
            above=0,
            most=10**6,
            relation="below reward.timeout",
            only=SERVERS,
        ),
    ] = None
    actors: Annotated[
        int,
        Key("of each term and process", "Ray actors", least=1, most=1024, only=("reward.executor=ray",)),
    ] = 1
    refill: Annotated[
        int,
        Key(
            "of fresh samples in place of failed ones; 0: go on with the valid ones",
            "rounds",
            least=0,
            most=1000,
        ),
    ] = 0
    cache: Annotated[str | None, Key("folder of scores by content; null: none", path=True)] = None
    canary: CanaryConfig = field(default_factory=CanaryConfig)

    @property
    def call_seconds(self) -> float:
        """What `timeout` is where it is null."""
        far = self.executor in (Executor.http, Executor.ray)
        return (FAR if far else HERE) if self.timeout is None else self.timeout
