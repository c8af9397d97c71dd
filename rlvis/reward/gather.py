"""Scores of all ranks as Rewards [P, K, R]: scalars are gathered, never pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlvis.records import Rewards
from rlvis.reward.contract import Term, or_nan
from rlvis.reward.stage import LocalScores, some, unasked


def gather(
    parts: Sequence[LocalScores],
    prompt: Tensor,
    sample: Tensor,
    terms: Sequence[Term],
    groups: int,
    group_size: int,
    all_gather: Callable[[Tensor], Tensor],
) -> Rewards:
    """Join this rank's shards with those of all ranks into Rewards [P, K, R].

    Args: parts, the shards in row order (none on a rank without rows); prompt, sample, int64 [N], where those
    rows lie in [P, K]; groups, P; group_size, K; all_gather, joins rows [n, c] of all ranks in rank order. It
    is called once on every rank, with the same columns whatever failed where. Latency and failures stay
    local.
    """
    r = len(terms)
    scores = LocalScores.concatenate([unasked(terms, 0), *parts])
    if not len(prompt) == len(sample) == len(scores.value):
        raise ValueError(
            f"gather got scores of {len(scores.value)} rows for {len(prompt)} prompts, {len(sample)} samples"
        )
    noise = [or_nan(column, scores.value) for column in (scores.noise_var, scores.noise_dof)]
    place = torch.stack([x.to(torch.float64) for x in (prompt, sample, scores.valid)], dim=1)
    table = all_gather(torch.cat([place, scores.value, *noise], dim=1))
    return assemble(
        table[:, 0].long(),
        table[:, 1].long(),
        table[:, 3 : 3 + r],
        table[:, 2] > 0,
        names=tuple(t.name for t in terms),
        weights=tuple(t.weight for t in terms),
        groups=groups,
        group_size=group_size,
        latency=scores.latency,
        noise_var=table[:, 3 + r : 3 + 2 * r],
        noise_dof=table[:, 3 + 2 * r :],
    )


def assemble(
    prompt: Tensor,
    sample: Tensor,
    value: Tensor,
    valid: Tensor,
    *,
    names: tuple[str, ...],
    weights: tuple[float, ...],
    groups: int,
    group_size: int,
    latency: tuple[float, ...],
    noise_var: Tensor | None = None,
    noise_dof: Tensor | None = None,
) -> Rewards:
    """Put scored rows at their place in [P, K, R]; a sample that no row names is invalid with a score of NaN.

    Args: prompt, sample, int64 [n], positions in groups = P and group_size = K; value, noise_*, float64 [n,
    R]; valid, bool [n]. Raises ValueError when a position lies outside [P, K] or is named twice.
    """
    place = prompt * group_size + sample
    outside = (prompt < 0) | (prompt >= groups) | (sample < 0) | (sample >= group_size)
    if bool(outside.any()):
        i = int(outside.nonzero()[0])
        raise ValueError(
            f"a score belongs to prompt {int(prompt[i])}, sample {int(sample[i])}, outside of the {groups} "
            f"prompts x {group_size} samples of this step; the records are of another step or of other sizes"
        )
    times = torch.bincount(place, minlength=groups * group_size)
    if bool((times > 1).any()):
        p, k = divmod(int(times.argmax()), group_size)
        raise ValueError(f"prompt {p}, sample {k} is scored twice; leave padding rows out before gathering")

    def spread(rows: Tensor) -> Tensor:
        full = torch.full((groups * group_size, len(names)), math.nan, dtype=torch.float64)
        full[place] = rows
        return full.reshape(groups, group_size, len(names))

    mask = torch.zeros(groups * group_size, dtype=torch.bool)
    mask[place] = valid
    return Rewards(
        term=spread(value),
        names=names,
        weights=weights,
        valid=mask.reshape(groups, group_size),
        noise_var=None if noise_var is None else some(spread(noise_var)),
        noise_dof=None if noise_dof is None else some(spread(noise_dof)),
        latency=latency,
    )
