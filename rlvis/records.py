"""The records that pass between the five stages, and the one legend of their axes.

P prompts, K samples a prompt, N local rows, V kept states, S trained transitions, T sampling steps, C F H W
latent (F = 1 is an image: there is no separate image type), R reward terms, Q objectives (1 for a weighted
sum, R for separate terms), A advantage terms.

Heavy records are local and flat (N rows); light ones are global ([P, K]) and equal on every rank. Rank r of W
owns rows r*N_all//W .. (r+1)*N_all//W of the N_all = P*K samples in the order (prompt, sample), so groups may
straddle ranks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlvis.record_base import Record, rows, tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule(Record):
    """A grid of noise levels: x = alpha * x0 + sigma * eps at grid point t, and the model's own time input
    per step.

    sigma is the float32 truth from which every coefficient is computed; flow models have alpha = 1 - sigma.

    >>> s = torch.tensor([1.0, 0.5, 0.0])
    >>> Schedule(sigma=s, alpha=1 - s, time=s[:-1] * 1000).steps
    2
    """

    row_axis: ClassVar[str] = "-"
    time: Tensor = tensor("T", torch.float32)
    sigma: Tensor = tensor("T+1", torch.float32)
    alpha: Tensor = tensor("T+1", torch.float32)

    @property
    def steps(self) -> int:
        """Number of sampling steps T."""
        return int(self.time.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptBatch(Record):
    """The prompts of one training step, global and equal on every rank.

    index: position in the data set, the key of all randomness. embeds: what the policy's `encode` made, each
    [P, ...]. metadata: what rewards may ask for (JSON values). frames: condition frames of image-to-video,
    RGB in 0..255.

    >>> texts = ("a red circle", "a blue square")
    >>> b = PromptBatch(texts=texts, index=torch.tensor([4, 9]), metadata=({}, {}))
    >>> b.take([1]).texts
    ('a blue square',)
    """

    row_axis: ClassVar[str] = "P"
    index: Tensor = tensor("P", torch.int64)
    texts: tuple[str, ...] = rows("P")
    metadata: tuple[dict[str, Any], ...] = rows("P")
    embeds: dict[str, Tensor] = tensor("P ...", default_factory=dict)
    frames: Tensor | None = tensor("P 3 Y X", torch.uint8, default=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectories(Record):
    """What a rollout leaves behind for the update: only states that a trained transition touches, log-probs
    per position.

    Transition s of row n goes from states[n, at[n, s]] to states[n, at[n, s] + 1] and is step[n, s] of the
    schedule. prompt and sample are positions in [P, K]; seed, policy_step and redraw (round of a refill, 0 or
    None for a first draw), with the prompt's index, name the noise that was drawn. media: frames RGB uint8,
    None once scored and mapped. free: 1 where the policy moves the latent, 0 where it is given.

    >>> zero = torch.zeros
    >>> s = torch.tensor([1.0, 0.5, 0.0])
    >>> t = Trajectories(
    ...     prompt=torch.tensor([0, 0]), sample=torch.tensor([0, 1]), states=zero(2, 2, 4, 1, 8, 8),
    ...     at=zero(2, 1, dtype=torch.int64), step=zero(2, 1, dtype=torch.int64), logprob=zero(2, 1, 1, 8, 8),
    ...     free=torch.ones(1, 8, 8), media=None, schedule=Schedule(sigma=s, alpha=1 - s, time=s[:-1] * 1000),
    ...     channel_reduction="mean", seed=0, policy_step=0)
    >>> t.take([1]).sample.tolist(), t.rows
    ([1], 2)
    """

    row_axis: ClassVar[str] = "N"
    prompt: Tensor = tensor("N", torch.int64)
    sample: Tensor = tensor("N", torch.int64)
    redraw: Tensor | None = tensor("N", torch.int64, default=None)
    at: Tensor = tensor("N S", torch.int64)
    step: Tensor = tensor("N S", torch.int64)
    states: Tensor = tensor("N V C F H W")
    logprob: Tensor = tensor("N S F H W", torch.float32)
    free: Tensor = tensor("F H W", torch.float32)
    media: Tensor | None = tensor("N M 3 Y X", torch.uint8, default=None)
    schedule: Schedule = dataclasses.field(metadata={"record": Schedule})
    channel_reduction: str
    seed: int
    policy_step: int

    def __post_init__(self) -> None:
        """Check shapes, and that every index points inside what it points into."""
        check = Record.__post_init__
        check(self)
        kept, steps = self.states.shape[1], self.schedule.steps
        if self.at.numel() and not (int(self.at.min()) >= 0 and int(self.at.max()) + 1 < kept):
            raise ValueError(
                f"Trajectories.at: wanted 0..{kept - 2} ({kept} kept states), "
                f"got {int(self.at.min())}..{int(self.at.max())}"
            )
        if self.step.numel() and not (int(self.step.min()) >= 0 and int(self.step.max()) < steps):
            raise ValueError(
                f"Trajectories.step: wanted 0..{steps - 1} ({steps} steps), "
                f"got {int(self.step.min())}..{int(self.step.max())}"
            )
        if self.channel_reduction not in ("mean", "sum"):
            raise ValueError(
                f"Trajectories.channel_reduction: wanted mean or sum, got {self.channel_reduction!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewards(Record):
    """Raw scores of all samples, gathered: [P, K, R] float64 on the CPU of every rank.

    valid is False where any term failed or was not finite; such a sample is never averaged and never counts
    as 0. latency: seconds per term on this step, summed over this rank's shards (0 where unknown).

    >>> term = torch.tensor([[[0.2], [0.8]]], dtype=torch.float64)
    >>> valid = torch.ones(1, 2, dtype=torch.bool)
    >>> r = Rewards(term=term, names=("coverage",), weights=(1.0,), valid=valid, latency=(0.0,))
    >>> r.term.shape
    torch.Size([1, 2, 1])
    """

    row_axis: ClassVar[str] = "P"
    term: Tensor = tensor("P K R", torch.float64)
    names: tuple[str, ...] = rows("R")
    weights: tuple[float, ...] = rows("R")
    valid: Tensor = tensor("P K", torch.bool)
    noise_var: Tensor | None = tensor("P K R", torch.float64, default=None)
    noise_dof: Tensor | None = tensor("P K R", torch.float64, default=None)
    latency: tuple[float, ...] = rows("R")

    def __post_init__(self) -> None:
        """Check shapes, and that every sample called valid has finite scores."""
        check = Record.__post_init__
        check(self)
        bad = ~torch.isfinite(self.term).all(-1) & self.valid
        if bool(bad.any()):
            p, k = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"Rewards.valid: {int(bad.sum())} samples are called valid but have scores that are not "
                f"finite, the first at prompt {p}, sample {k}: {self.term[p, k].tolist()}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorState(Record):
    """What a prior remembers between steps (checkpointed): named float64 tensors, and the kind that reads
    them.

    >>> PriorState(kind="none").values
    {}
    """

    row_axis: ClassVar[str] = "-"
    kind: str
    values: dict[str, Tensor] = tensor("...", torch.float64, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RewardHistory(Record):
    """Past combined rewards by prompt index (as text), newest last: what the `ddpo` preset averages over
    (checkpointed).

    >>> RewardHistory(values={"4": torch.tensor([0.2, 0.3], dtype=torch.float64)}).values["4"].shape
    torch.Size([2])
    """

    row_axis: ClassVar[str] = "-"
    values: dict[str, Tensor] = tensor("...", torch.float64, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trust(Record):
    """How far each group's reward is trusted, per objective, and the contrasted reward inside groups if there
    is one.

    weight multiplies the group's z-scores. contrast is the transformed reward; contrast_replaces says whether
    it takes the raw reward's place or becomes a term of its own; contrast_share, 0 to 1, multiplies its
    z-scores, 0 where the group has no spread (None: ones). anchor_*: the prior's mean, variance and count
    that were used.

    >>> Trust(weight=torch.ones(3, 1, dtype=torch.float64), contrast_replaces=False).contrast is None
    True
    """

    row_axis: ClassVar[str] = "P"
    weight: Tensor = tensor("P Q", torch.float64)
    contrast: Tensor | None = tensor("P K Q", torch.float64, default=None)
    contrast_share: Tensor | None = tensor("P Q", torch.float64, default=None)
    contrast_replaces: bool
    anchor_mean: Tensor | None = tensor("P Q", torch.float64, default=None)
    anchor_var: Tensor | None = tensor("P Q", torch.float64, default=None)
    anchor_count: Tensor | None = tensor("P Q", torch.float64, default=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Advantages(Record):
    """What the loss multiplies: scalar advantages per term (global), and optionally a map over space and time
    or a whole field of advantages (local rows).

    A terms rather than their sum, because the clipped loss is positively homogeneous but not additive. keep
    is False for samples that are not trained (invalid, or dropped by best-of-N). map >= 0, so no sign ever
    flips inside a sample. field: signed advantages at each position, which take the place of `term` in the
    loss (ratio_scope=position only) where the map acted on the reward already, so there is no map beside it;
    term stays what metrics and keep are made from.

    >>> term, keep = torch.zeros(1, 2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    >>> a = Advantages(term=term, coef=torch.ones(1, dtype=torch.float64), names=("grpo",), keep=keep)
    >>> a.map is None
    True
    """

    row_axis: ClassVar[str] = "N"
    term: Tensor = tensor("A P K", torch.float64)
    coef: Tensor = tensor("A", torch.float64)
    names: tuple[str, ...] = rows("A")
    keep: Tensor = tensor("P K", torch.bool)
    map: Tensor | None = tensor("N F H W", torch.float32, default=None)
    field: Tensor | None = tensor("A N F H W", torch.float32, default=None)

    def __post_init__(self) -> None:
        """Check shapes, finiteness, that the map has no negative value, and that map and field exclude each
        other.
        """
        check = Record.__post_init__
        check(self)
        if not bool(torch.isfinite(self.term).all()):
            raise ValueError(
                "Advantages.term: some values are not finite; mask such samples with keep=False and 0"
            )
        if self.map is not None and not bool(((self.map >= 0) & torch.isfinite(self.map)).all()):
            raise ValueError(
                f"Advantages.map: wanted finite values >= 0, got a minimum of {float(self.map.min())}"
            )
        if self.field is not None and self.map is not None:
            raise ValueError("Advantages.field: the map acted on it already; wanted map=None beside a field")
        if self.field is not None and not bool(torch.isfinite(self.field).all()):
            raise ValueError("Advantages.field: some values are not finite")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyUpdate(Record):
    """What one update did, scalars only: metric name -> value, already reduced over ranks.

    details: the same by transition ("transition/0/loss") and the gradient's norm by block ("layer/NAME"; none
    where gradients are sharded), for details.jsonl.

    >>> PolicyUpdate(policy_step=3, metrics={"update/loss": 0.0}).metrics["update/loss"]
    0.0
    """

    row_axis: ClassVar[str] = "-"
    policy_step: int
    metrics: dict[str, float]
    details: dict[str, float] = dataclasses.field(default_factory=dict)


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
