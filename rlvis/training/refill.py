"""Fresh samples in the place of those that no scorer could judge (reward.refill rounds).

After the scores are gathered every rank knows which of the P * K samples are invalid. Each rank rolls out its
own once more, with noise named by the round beside (seed, step, prompt, sample), so the outcome does not
depend on the number of ranks; ranks with fewer to do run as many forwards as the others. What is invalid
after the last round is masked as ever, and the statistics are exact over the valid ones.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.advantage.maps.psm import Allocation
from rlvis.records import Rewards, Trajectories
from rlvis.reward.stage import LocalScores
from rlvis.runtime.dist import World

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """Samples of this rank after rollout and scoring: all that a fresh sample replaces.

    trajectories: N rows without media. maps, thumbnails: of the same rows, where they are made.
    """

    trajectories: Trajectories
    scores: LocalScores
    maps: Allocation | None = None
    thumbnails: Tensor | None = None

    @staticmethod
    def of(
        pieces: Sequence[Trajectories],
        scores: Sequence[LocalScores],
        maps: Sequence[Allocation] = (),
        thumbnails: Sequence[Tensor] = (),
    ) -> Drawn:
        """Shards in row order, put together."""
        return Drawn(
            Trajectories.concatenate(pieces),
            join(scores),
            Allocation(*(torch.cat(part) for part in zip(*maps, strict=True))) if maps else None,
            torch.cat(list(thumbnails)) if thumbnails else None,
        )

    def put(self, at: Sequence[int], fresh: Drawn) -> Drawn:
        """A copy in which rows `at` are those of `fresh`, in that order."""
        if not at:
            return self
        rows = self.trajectories.rows
        index = torch.arange(rows)
        index[list(at)] = torch.arange(rows, rows + len(at))
        both = Drawn.of(
            [self.trajectories, fresh.trajectories],
            [self.scores, fresh.scores],
            [] if self.maps is None or fresh.maps is None else [self.maps, fresh.maps],
            []
            if self.thumbnails is None or fresh.thumbnails is None
            else [self.thumbnails, fresh.thumbnails],
        )
        return Drawn(
            both.trajectories.take(index),
            _take(both.scores, index),
            None if both.maps is None else Allocation(*(part[index] for part in both.maps)),
            None if both.thumbnails is None else both.thumbnails[index],
        )


def refill(
    drawn: Drawn,
    rewards: Rewards,
    rounds: int,
    world: World,
    again: Callable[[list[int], int, int], Drawn],
    collect: Callable[[Drawn], Rewards],
) -> tuple[Drawn, Rewards, int]:
    """Draw invalid samples afresh, at most `rounds` times; a collective.

    Args: drawn, this rank's rows; rewards, of all ranks [P, K, R]; again, (global rows of this rank, the most
    that a rank has, round from 1) -> those rows rolled out and scored anew, on every rank alike, also without
    rows; collect, gathers scores. Returns rows and rewards after it, and how many samples were drawn afresh
    on all ranks.
    """
    total, count = rewards.valid.numel(), 0
    owned = [World(rank, world.data_size).rows(total) for rank in range(world.data_size)]
    for number in range(1, rounds + 1):
        bad = (~rewards.valid).flatten().nonzero()[:, 0].tolist()
        if not bad:
            break
        count += len(bad)
        shares = [[row for row in bad if row in own] for own in owned]
        mine = shares[world.data_rank]
        fresh = again(mine, max(len(share) for share in shares), number)
        drawn = drawn.put([row - owned[world.data_rank].start for row in mine], fresh)
        rewards = collect(drawn)
        if world.leads:
            left = int((~rewards.valid).sum())
            log.info(
                "refill, round %d of %d: %d samples without a score were drawn afresh, %d have none yet",
                *(number, rounds, len(bad), left),
            )
    return drawn, rewards, count


def join(parts: Sequence[LocalScores]) -> LocalScores:
    """Scores of shards in row order as those of one; latencies, failures and retries add up."""
    failures: Counter[str] = Counter()
    for part in parts:
        failures.update(part.failures)

    def noise(name: str) -> Tensor | None:
        columns = [getattr(part, name) for part in parts]
        if all(column is None for column in columns):
            return None
        return torch.cat(
            [
                torch.full_like(part.value, math.nan) if column is None else column
                for part, column in zip(parts, columns, strict=True)
            ]
        )

    return LocalScores(
        value=torch.cat([part.value for part in parts]),
        valid=torch.cat([part.valid for part in parts]),
        noise_var=noise("noise_var"),
        noise_dof=noise("noise_dof"),
        latency=tuple(sum(seconds) for seconds in zip(*(part.latency for part in parts), strict=True)),
        failures=dict(failures),
        retried=sum(part.retried for part in parts),
    )


def _take(scores: LocalScores, index: Tensor) -> LocalScores:
    return LocalScores(
        value=scores.value[index],
        valid=scores.valid[index],
        noise_var=None if scores.noise_var is None else scores.noise_var[index],
        noise_dof=None if scores.noise_dof is None else scores.noise_dof[index],
        latency=scores.latency,
        failures=scores.failures,
        retried=scores.retried,
    )
