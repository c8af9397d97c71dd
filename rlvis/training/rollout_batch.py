"""This rank's samples of a step after rollout and scoring: shards joined, rows that a refill replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.advantage.maps.psm import Allocation
from rlvis.records import Trajectories
from rlvis.reward.stage import LocalScores


@dataclass(frozen=True)
class RolloutBatch:
    """N rows of this rank, in the order it owns them.

    trajectories: without media. scores: of the same rows. maps, thumbnails (uint8 [N, M, 3, y, x]): where
    they are made.
    """

    trajectories: Trajectories
    scores: LocalScores
    maps: Allocation | None = None
    thumbnails: Tensor | None = None

    @staticmethod
    def concatenate(
        trajectories: Sequence[Trajectories],
        scores: Sequence[LocalScores],
        maps: Sequence[Allocation] = (),
        thumbnails: Sequence[Tensor] = (),
    ) -> RolloutBatch:
        """Shards in row order, put together."""
        return RolloutBatch(
            Trajectories.concatenate(trajectories),
            LocalScores.concatenate(scores),
            Allocation(*(torch.cat(part) for part in zip(*maps, strict=True))) if maps else None,
            torch.cat(list(thumbnails)) if thumbnails else None,
        )

    @property
    def failed_maps(self) -> int:
        """Rows whose map is of ones, because their features were not finite."""
        return 0 if self.maps is None else int(self.maps.failed.sum())

    def replace_rows(self, at: Sequence[int], fresh: RolloutBatch) -> RolloutBatch:
        """A copy in which rows `at` are those of `fresh`, in that order."""
        if not at:
            return self
        rows = self.trajectories.rows
        index = torch.arange(rows)
        index[list(at)] = torch.arange(rows, rows + len(at))
        both = RolloutBatch.concatenate(
            [self.trajectories, fresh.trajectories],
            [self.scores, fresh.scores],
            [] if self.maps is None or fresh.maps is None else [self.maps, fresh.maps],
            []
            if self.thumbnails is None or fresh.thumbnails is None
            else [self.thumbnails, fresh.thumbnails],
        )
        return RolloutBatch(
            both.trajectories.take(index),
            both.scores.take(index),
            None if both.maps is None else Allocation(*(part[index] for part in both.maps)),
            None if both.thumbnails is None else both.thumbnails[index],
        )
