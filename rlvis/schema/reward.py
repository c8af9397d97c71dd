"""The reward terms, and how their scorers are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Executor(Enum):
    """Where scorers run: in turn with the rollout, beside it in a thread, on servers, in Ray actors."""

    inline = "inline"
    thread = "thread"
    http = "http"
    ray = "ray"


@dataclass
class RewardTerm:
    """One scorer: a name in rlvis.reward or a dotted path to a function `images, prompts, metadata ->
    scores`.
    """

    scorer: str = MISSING
    weight: float = 1.0
    kwargs: dict[str, Any] = field(default_factory=dict)  # checked against the scorer's signature
    frames: Any = "all"  # of a clip that the scorer sees: all, first, last, middle, every N, or [indices]


@dataclass
class CanaryConfig:
    """Fixed samples that are scored again and again: a scorer that changes its mind has drifted."""

    every: int = 0  # training steps between two looks; 0: never
    samples: int = 4  # of the first step that are kept for it
    tolerance: float = 1e-3  # of a change, in units of the first scores' spread over the samples


@dataclass
class RewardConfig:
    """The terms, and how they are asked."""

    terms: dict[str, RewardTerm] = field(default_factory=dict)
    executor: Executor = Executor.inline
    servers: list[str] = field(default_factory=list)  # http: base addresses, as http://127.0.0.1:8700
    token_env: str | None = "RLVIS_TOKEN"  # http: environment variable with their token; null: none
    timeout: float = 120.0  # http, ray: seconds until an answer counts as lost
    hedge: float | None = None  # http: seconds until a second server is asked as well; null: never
    actors: int = 1  # ray: of each term and process
    refill: int = 0  # rounds of fresh samples in place of failed ones; 0: go on with the valid ones
    cache: str | None = None  # folder of scores by content; null: none
    canary: CanaryConfig = field(default_factory=CanaryConfig)
