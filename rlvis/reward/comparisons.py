"""Samples of a prompt compared two at a time: which rows are a group, who meets whom, how often each wins.

A win rate is a score among the group's samples: its mean is 1/2 in every group, so it says nothing of one
prompt against another, and a prior for group means has nothing to compare.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def groups(rows: Sequence[Any], size: int | None) -> tuple[list[list[int]], list[int]]:
    """Positions of the rows of each whole group, and those that belong to none.

    rows: what each sample is for; neighbours that are equal are of one group, or of several of `size`.
    Where their number is no multiple of it (or there is one alone), none of them is of a whole group.

    >>> groups(["a", "a", "b", "b", "b", "c"], 2)
    ([[0, 1]], [2, 3, 4, 5])
    """
    runs: list[list[int]] = []
    for i, row in enumerate(rows):
        if i and row == rows[i - 1]:
            runs[-1].append(i)
        else:
            runs.append([i])
    whole: list[list[int]] = []
    left: list[int] = []
    for run in runs:
        each = size or len(run)
        if len(run) % each or len(run) < 2:
            left += run
        else:
            whole += [run[start : start + each] for start in range(0, len(run), each)]
    return whole, left


def meetings(group: Sequence[int], opponents: int | None) -> Iterator[tuple[int, int]]:
    """The pairs of a group: all, or on a ring each row with the next ones, so that every row meets at least
    `opponents` others, as many as each other row.

    >>> list(meetings([4, 5, 6, 7], 2))
    [(4, 5), (5, 6), (6, 7), (7, 4)]
    """
    n = len(group)
    if opponents is None or opponents >= n - 1:
        yield from itertools.combinations(group, 2)
        return
    for step in range(1, -(-opponents // 2) + 1):
        for i in range(n // 2 if 2 * step == n else n):
            yield group[i], group[(i + step) % n]


def win_rates(wins: Tensor, pairs: Sequence[tuple[int, int]], rows: int) -> Tensor:
    """Share of its comparisons that each row won [R, rows], from wins [R, pairs] of the first of each pair
    (NaN: none). NaN for a row with less than half of its comparisons.
    """
    won = torch.zeros(len(wins), rows, dtype=torch.float64)
    played, wanted = torch.zeros_like(won), torch.zeros(rows, dtype=torch.float64)
    for number, (a, b) in enumerate(pairs):
        win, good = wins[:, number], wins[:, number].isfinite()
        for row, share in ((a, win), (b, 1 - win)):
            won[:, row] += torch.where(good, share, 0.0)
            played[:, row] += good.double()
            wanted[row] += 1
    return torch.where((played > 0) & (2 * played >= wanted), won / played, math.nan)
