"""Fresh samples in the place of those that no scorer could judge (reward.refill rounds).

After the scores are gathered every rank knows which of the P * K samples are invalid. Each rank rolls out its
own once more, with noise named by the round beside (seed, step, prompt, sample), so the outcome does not
depend on the number of ranks; ranks with fewer to do run as many forwards as the others. What is invalid
after the last round is masked as ever, and the statistics are exact over the valid ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rlvis.records import Rewards
from rlvis.runtime.dist import World
from rlvis.training.rollout_batch import RolloutBatch

log = logging.getLogger(__name__)


def refill(
    batch: RolloutBatch,
    rewards: Rewards,
    rounds: int,
    world: World,
    sample: Callable[[list[int], int, int], RolloutBatch],
    rescore: Callable[[RolloutBatch], Rewards],
) -> tuple[RolloutBatch, Rewards, int]:
    """Draw invalid samples afresh, at most `rounds` times; a collective.

    Args: batch, this rank's rows; rewards, of all ranks [P, K, R]; sample, (global rows of this rank, the
    most that a rank has, round from 1) -> those rows rolled out and scored anew, on every rank alike, also
    without rows; rescore, gathers scores. Returns rows and rewards after it, and how many samples were drawn
    afresh on all ranks.
    """
    total, count = rewards.valid.numel(), 0
    owned = [World(rank, world.data_size).rows(total) for rank in range(world.data_size)]
    local_rows = owned[world.data_rank]
    for number in range(1, rounds + 1):
        invalid = (~rewards.valid).flatten().nonzero()[:, 0].tolist()
        if not invalid:
            break
        count += len(invalid)
        most = max(sum(row in rows for row in invalid) for rows in owned)
        again = [row for row in invalid if row in local_rows]
        fresh = sample(again, most, number)
        batch = batch.replace_rows([row - local_rows.start for row in again], fresh)
        rewards = rescore(batch)
        if world.is_main:
            left = int((~rewards.valid).sum())
            log.info(
                "refill, round %d of %d: %d samples without a score were drawn afresh, %d have none yet",
                *(number, rounds, len(invalid), left),
            )
    return batch, rewards, count
