"""The first line of a run: the numbers that follow from the configuration, printed before anything heavy
loads.
"""

from __future__ import annotations

import math

from rlvis.checks.sequence import groups
from rlvis.flow.windows import trained_transitions
from rlvis.schema import Config


def summary(config: Config, world_size: int, prompts_total: int | None = None) -> str:
    """One line such as

        48 prompts x 12 samples = 576 images/step on 8 processes (6 groups each), 2 updates/step of 288, 9
        trained transitions of 10, micro-batch 8: 90 forwards to sample and 90 to train on each, 300 steps,
        outputs/run/DATE_TIME

    world_size: processes. prompts_total: size of the data set, None when it is not known yet.
    """
    data, train, sampler = config.data, config.train, config.sampler
    p, k = data.prompts_per_step, data.samples_per_prompt
    rows = p * k
    kept = p * (config.advantage.best_of_n or k)
    what = "videos" if config.model.frames > 1 else "images"
    trained = trained_transitions(sampler)
    update = math.ceil(kept / train.updates_per_step)
    shares = groups(config, world_size)
    sample_passes, train_passes = forwards(config, shares)
    parts = [
        f"{p} prompts x {k} samples = {rows} {what}/step on {_processes(p, k, shares, world_size // shares)}",
        f"{_count(train.updates_per_step, 'update')}/step of {update}"
        + (
            f" (the {config.advantage.best_of_n} extreme samples of each group)"
            if config.advantage.best_of_n
            else ""
        ),
        f"{trained} trained transitions of {sampler.steps}",
        f"micro-batch {train.micro_batch}: {sample_passes} forwards to sample and {train_passes} to train"
        + (" on each" if world_size > 1 else "")
        + (", two guidance branches each" if config.model.cfg > 1 else ""),
        f"{train.steps} steps"
        + (f" = {train.steps * p / prompts_total:.3g} epochs" if prompts_total else ""),
        config.resume or config.run_dir or f"outputs/{config.name}/DATE_TIME",
    ]
    return ", ".join(parts)


def forwards(config: Config, world_size: int) -> tuple[int, int]:
    """Forward passes of one process in one step: (to sample, to train). Trained ones are followed by a
    backward pass.

    world_size: processes, or groups of them that share the tokens of a sample.
    """
    data, train, sampler = config.data, config.train, config.sampler
    rows = math.ceil(data.prompts_per_step * data.samples_per_prompt / world_size)
    kept = data.prompts_per_step * (config.advantage.best_of_n or data.samples_per_prompt)
    update_rows = math.ceil(kept / train.updates_per_step / world_size)
    sample = math.ceil(rows / train.micro_batch) * sampler.steps
    update = math.ceil(update_rows / train.micro_batch) * train.updates_per_step
    return sample, update * trained_transitions(sampler)


def _processes(p: int, k: int, shares: int, together: int) -> str:
    """What makes the samples: `shares` processes, or as many times `together` that share tokens."""
    who = f"{shares} process{'' if shares == 1 else 'es'}"
    if together > 1:
        who = f"{shares} x {together} processes, of which {together} share the tokens of a sample"
    if shares == 1:
        return f"{who} ({_count(p, 'group')})"
    if p % shares == 0:
        return f"{who} ({_count(p // shares, 'group')} each)"
    low, high = p * k // shares, math.ceil(p * k / shares)
    return f"{who} ({low if low == high else f'{low} to {high}'} samples each)"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
