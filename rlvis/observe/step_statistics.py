"""The statistics of a training step's samples: taken shard by shard while media exist, joined over ranks.

A few hundred numbers a sample travel (its statistics and its thumbnails), never its pixels, and every rank
ends with the same means over the valid samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvis.observe import picture_statistics

PREFIX = "sentinel/"


@dataclass(frozen=True)
class Look:
    """What is kept of a shard's media: float64 [N] by name of the statistic, thumbnails [N, D]."""

    values: dict[str, Tensor]
    thumbs: Tensor


def look(media: Tensor, device: torch.device | str = "cpu") -> Look:
    """Look at the media of a shard, uint8 [N, M, 3, Y, X], on `device`."""
    values = picture_statistics.statistics(media, device)
    if not len(media):
        return Look(values, torch.zeros(0, picture_statistics.width(media.shape[1])))
    return Look(values, picture_statistics.thumbnails(media))


def means(
    looks: Sequence[Look],
    prompt: Tensor,
    sample: Tensor,
    valid: Tensor,
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> dict[str, float]:
    """sentinel/* of a step: means over all valid samples of all ranks, and the diversity inside groups.

    Args:
        looks: this rank's shards, in order.
        prompt: int [N], position in 0 .. P-1 of each of this rank's samples.
        sample: int [N], position in its group.
        valid: bool [P, K], the same on every rank.
        gather: joins the rows of all ranks; a collective.

    Returns:
        Nothing where no sample is valid.
    """
    names = list(looks[0].values)
    local_values = torch.cat([torch.stack([*one.values.values()], 1) for one in looks])
    thumbs = torch.cat([one.thumbs for one in looks]).double()
    table = gather(torch.cat([prompt[:, None].double(), sample[:, None].double(), local_values, thumbs], 1))
    table = table[valid[table[:, 0].long(), table[:, 1].long()]]
    if not len(table):
        return {}
    statistics = {PREFIX + name: float(table[:, 2 + i].mean()) for i, name in enumerate(names)}
    apart = picture_statistics.diversity(table[:, 2 + len(names) :], table[:, 0].long())
    return statistics if apart is None else statistics | {PREFIX + "diversity": apart}
