"""One evaluation: sample every held-out prompt along the ODE, judge, and gather the numbers of all ranks.

Rows split over ranks as those of a rollout do. Every forward has the same number of rows and every rank runs
as many, so a sample does not depend on how many ranks there are, and frames are judged as they come.

The same prompts may be looked at in other ways, each with columns of its own: from other words that say the
same, and by the sampler of training. All start from the noise of the prompt itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlvis.evaluation import diversity, suites
from rlvis.evaluation.drawn import Drawn
from rlvis.evaluation.prompts import HeldOut, noise_key
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.reward.stage import score, unasked
from rlvis.rollout.generate import generate
from rlvis.rollout.plan import SamplingPlan
from rlvis.rollout.stage import rollout
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import SamplerConfig

TERM = "term/"  # columns of extra scorers
REWORDED, TRAINED = "reworded/", "train_sampler/"  # before the columns of the other views


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
    trained: SamplingPlan | None = None,
    drawn: Drawn | None = None,
) -> dict[str, Tensor]:
    """Judge `eval.samples` samples of every prompt; a collective.

    Args:
        policy, module: what draws; module is an engine or the bare denoiser. held: prompts, encoded. sampler:
        of the run, for its shift and grid alone. micro_batch: rows of one forward. retries: of a scorer call.
        keep: gets each prompt's position and its first sample, uint8 [M,3,Y,X], on the rank that drew it.
        trained: the plan of training, one sample a prompt, to draw by it as well. drawn: what there is from
        before an interruption.

    Returns:
        Columns float64 [P * samples] in the order (prompt, sample), equal on every rank: those of the suite,
        one "term/NAME" for each extra scorer, NaN where it failed, those of the other views behind their
        prefix, and "look/N", the small picture that diversity is measured on.
    """
    settings, per = held.settings, held.settings.samples
    schedule = policy.schedule(ode_steps(policy, settings.steps), sampler.shift, sampler.grid)
    draw = partial(generate, policy, module, schedule=schedule, seed=settings.seed, micro_batch=micro_batch)
    total = held.batch.rows * per
    local_rows, most = world.rows(total), -(-total // world.data_size)
    done: list[dict[str, Tensor]] = []
    for start in range(0, most, micro_batch):
        rows = list(local_rows[start : start + micro_batch])
        known = drawn.read(start) if drawn is not None else None
        if drawn is not None and dist.all_true(known is not None):
            assert known is not None, "this rank has it too"
            done.append(known)
            continue
        padded = rows + [rows[-1] if rows else 0] * (micro_batch - len(rows))
        part = _part(held.batch, held.batch, padded, per)
        media = draw(part)
        for row, clip in zip(rows, media, strict=False):
            if row % per == 0 and not dist.is_duplicate():
                keep(row // per, clip)
        columns = _judged(held, part, media, len(rows), retries) | diversity.looks(media[: len(rows)])
        if held.reworded is not None:
            batch, has = held.reworded
            other = _judged(held, part, draw(_part(held.batch, batch, padded, per)), len(rows), retries)
            asked = torch.tensor([has[row // per] for row in rows], dtype=torch.bool)
            columns |= {f"{REWORDED}{k}": torch.where(asked, v, torch.nan) for k, v in other.items()}
        if trained is not None:
            noisy = rollout(policy, module, part, range(micro_batch), trained, passes=1).media
            assert noisy is not None, "a rollout decodes what it draws"
            judged = _judged(held, part, noisy, len(rows), retries)
            columns |= {f"{TRAINED}{name}": column for name, column in judged.items()}
        if drawn is not None:
            drawn.write(start, columns)
        done.append(columns)
    return _gather(done)


def ode_steps(policy: Policy, steps: int | None) -> int:
    """Steps of the sampler: as configured, or what the family's pipeline takes when it is not told."""
    if steps is not None:
        return steps
    return int(inspect.signature(type(policy.pipe).__call__).parameters["num_inference_steps"].default)


def _judged(held: HeldOut, part: PromptBatch, media: Tensor, n: int, retries: int) -> dict[str, Tensor]:
    """Columns float64 [n] of the first n rows; the others are padding, judged too by the suite, since a rank
    without rows must know the names of the columns.
    """
    columns = suites.judge(held.settings.suite, media, part.texts, part.frames)
    kept = {name: column[:n] for name, column in columns.items()}
    if held.terms:
        if dist.is_duplicate():
            value = unasked(held.terms, n).value
        else:
            value = score(held.terms, part.texts[:n], part.metadata[:n], media[:n], retries).value
        kept |= {f"{TERM}{term.name}": value[:, i] for i, term in enumerate(held.terms)}
    return {name: column.detach().cpu().double() for name, column in kept.items()}


def _part(names: PromptBatch, batch: PromptBatch, rows: Sequence[int], per: int) -> PromptBatch:
    """One prompt of `batch` for each row, its index the key of that sample's own noise, which the prompt of
    `names` gives.
    """
    part = batch.take([row // per for row in rows])
    keys = [noise_key(names.texts[row // per], names.metadata[row // per], row % per) for row in rows]
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
