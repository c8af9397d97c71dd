"""One evaluation: sample every held-out prompt along the ODE, judge, and gather the numbers of all ranks.

Rows split over ranks as those of a rollout do. Every forward has the same number of rows and every rank runs
as many, so a sample does not depend on how many ranks there are, and frames are judged as they come.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.evaluation import suites
from rlvis.evaluation.prompts import HeldOut, noise_key
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.reward.stage import score, unasked
from rlvis.rollout.generate import generate
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import SamplerConfig

TERM = "term/"  # columns of extra scorers


def evaluate(
    policy: Policy,
    module: Callable[..., Any],
    held: HeldOut,
    sampler: SamplerConfig,
    *,
    micro_batch: int,
    world: World,
    retries: int = 2,
    keep: Callable[[int, Tensor], None] = lambda prompt, clip: None,
) -> dict[str, Tensor]:
    """Judge `eval.samples` samples of every prompt; a collective.

    Args:
        policy, module: what draws; module is an engine or the bare denoiser. held: prompts, encoded. sampler:
        of the run, for its shift and grid alone. micro_batch: rows of one forward. retries: of a scorer call.
        keep: gets each prompt's position and its first sample, uint8 [M,3,Y,X], on the rank that drew it.

    Returns:
        Columns float64 [P * samples] in the order (prompt, sample), equal on every rank: those of the suite,
        and one "term/NAME" for each extra scorer, NaN where it failed.
    """
    settings, per = held.settings, held.settings.samples
    schedule = policy.schedule(ode_steps(policy, settings.steps), sampler.shift, sampler.grid)
    total = held.batch.rows * per
    local_rows, most = world.rows(total), -(-total // world.data_size)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, most, micro_batch):
        rows = list(local_rows[start : start + micro_batch])
        padded = rows + [rows[-1] if rows else 0] * (micro_batch - len(rows))
        part = _part(held.batch, padded, per)
        media = generate(policy, module, part, schedule, seed=settings.seed, micro_batch=micro_batch)
        for row, clip in zip(rows, media, strict=False):
            if row % per == 0 and not dist.is_duplicate():
                keep(row // per, clip)
        # Padding is judged too: a rank without rows must know the names of the columns.
        columns = suites.judge(settings.suite, media, part.texts, part.frames)
        kept = {name: column[: len(rows)] for name, column in columns.items()}
        if held.terms:
            n = len(rows)
            if dist.is_duplicate():
                value = unasked(held.terms, n).value
            else:
                value = score(held.terms, part.texts[:n], part.metadata[:n], media[:n], retries).value
            kept |= {f"{TERM}{term.name}": value[:, i] for i, term in enumerate(held.terms)}
        parts.append({name: column.detach().cpu().double() for name, column in kept.items()})
    return _gather(parts)


def ode_steps(policy: Policy, steps: int | None) -> int:
    """Steps of the sampler: as configured, or what the family's pipeline takes when it is not told."""
    if steps is not None:
        return steps
    return int(inspect.signature(type(policy.pipe).__call__).parameters["num_inference_steps"].default)


def _part(batch: PromptBatch, rows: Sequence[int], per: int) -> PromptBatch:
    """One prompt for each row, its index the key of that sample's own noise."""
    part = batch.take([row // per for row in rows])
    keys = [
        noise_key(text, metadata, row % per)
        for text, metadata, row in zip(part.texts, part.metadata, rows, strict=True)
    ]
    return part.replace(index=torch.tensor(keys, dtype=torch.int64))


def _gather(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The columns of all micro-batches of all ranks, in row order; NaN where some rank has no such column."""
    local = list(dict.fromkeys(name for part in parts for name in part))
    text = torch.frombuffer(bytearray("".join(name + "\n" for name in local).encode()), dtype=torch.uint8)
    names = list(dict.fromkeys(bytes(dist.all_gather_rows(text).tolist()).decode().splitlines()))
    pieces = []
    for part in parts:
        rows = len(next(iter(part.values())))
        blank = torch.full((rows,), torch.nan, dtype=torch.float64)
        pieces.append(torch.stack([part.get(name, blank) for name in names], dim=1))
    table = dist.all_gather_rows(torch.cat(pieces))
    return {name: table[:, i] for i, name in enumerate(names)}
