"""Sizes that fit and sizes that waste: rows over ranks and micro-batches, groups, files, prompts.

Contradictions are refused in `rlvis.checks` already; here stands what runs, but badly.
"""

from __future__ import annotations

import math

import torch

from rlvis.checks import files as config_files
from rlvis.data.prompts import PromptSet
from rlvis.doctor.diagnosis import failure, ok, warning
from rlvis.findings import Finding, Number
from rlvis.flow.windows import trained_transitions
from rlvis.models.policy import Policy
from rlvis.runtime import rng
from rlvis.runtime.dist import World
from rlvis.schema import Combine, Config, StdScope
from rlvis.update.minibatch import plan

PADDED = 0.25  # share of rows that are computed and thrown away
GROUP = 4  # samples a prompt: with 2 every z-score is 1 or -1, with 3 a third of them is near 0
GROUPS = 4  # prompts for a std over the batch
TRY = 10  # training steps below which a run tries something out and is spared words about statistics
SHARE = 0.05  # of prompts that are truncated or repeated
ASKED = 512  # prompts whose length is looked at


def padding(config: Config, world_size: int, micro_batch: int | None = None) -> tuple[float, float]:
    """Share of rows in the forwards that are padding: (while sampling, while training), over all ranks."""
    size = config.train.micro_batch if micro_batch is None else micro_batch
    total = config.data.prompts_per_step * config.data.samples_per_prompt
    most = -(-total // world_size)
    shard = config.train.shard or most
    passes = sum(-(-min(shard, most - start) // size) for start in range(0, most, shard))
    keep = torch.ones(config.data.prompts_per_step, config.data.samples_per_prompt, dtype=torch.bool)
    if config.advantage.best_of_n is not None:
        keep[:, config.advantage.best_of_n :] = False
    dealt = plan(keep, config.train.updates_per_step, size, world_size, rng.generator(0, 0, "minibatches"))
    weights = [w for one in dealt for rank in one.ranks for batch in rank for w in batch.weights]
    return 1 - total / (passes * size * world_size), 1 - sum(weights) / len(weights)


def geometry(config: Config, world: World, latent_shape: tuple[int, int, int, int]) -> list[Finding]:
    """Rows over ranks and micro-batches."""
    data, train = config.data, config.train
    total = data.prompts_per_step * data.samples_per_prompt
    sampling, training = padding(config, world.data_size)
    c, f, h, w = latent_shape
    size = train.micro_batch
    what = (
        f"{total} rows of {c} x {f} x {h} x {w} over {world.data_size} {_units(world)} in micro-batches of "
        f"{size}, {trained_transitions(config.sampler)} trained transitions; {sampling:.0%} of the rows of "
        f"sampling and {training:.0%} of those of training are padding"
    )
    numbers: dict[str, Number] = {
        "rows": total,
        "ranks": world.data_size,
        "micro_batch": size,
        "padding_sampling": round(sampling, 4),
        "padding_training": round(training, 4),
    }
    if max(sampling, training) <= PADDED:
        return [ok("geometry", what, numbers)]
    options = {m: max(padding(config, world.data_size, m)) for m in range(max(1, size // 4), size + 1)}
    best = min(options, key=lambda m: (round(options[m], 3), -m))
    why = "padding rows go through the policy as others do and count for nothing: time that is thrown away"
    kind = f"train.micro_batch={best} ({options[best]:.0%}), or sizes that divide by it"
    return [warning("geometry", what, numbers, why=why, type=kind)]


def _units(world: World) -> str:
    """What rows are shared out to."""
    return "ranks" if world.sequence == 1 else f"groups of {world.sequence} ranks"


def groups(config: Config) -> list[Finding]:
    """Whether means and deviations rest on enough samples."""
    data, advantage = config.data, config.advantage
    p, k = data.prompts_per_step, data.samples_per_prompt
    rows = p * (k if advantage.best_of_n is None else advantage.best_of_n)
    updates = config.train.updates_per_step
    what = f"{p} groups of {k}, {updates} updates of {rows // updates} rows"
    numbers: dict[str, Number] = {"groups": p, "samples": k, "updates": updates}
    if config.train.steps < TRY:
        return [ok("groups", f"{what}; a run of {config.train.steps} steps", numbers)]
    if k < GROUP:
        why = f"the mean and the deviation of {k} samples are mostly noise, and an advantage is made of both"
        return [warning("groups", what, numbers, why=why, type="data.samples_per_prompt=8")]
    joint = advantage.std_scope is StdScope.batch or advantage.combine is Combine.gdpo
    if joint and p < GROUPS:
        why = f"one deviation over the batch rests on {p} prompts, so the hardest of them sets every scale"
        kind = f"data.prompts_per_step={GROUPS} or more"
        return [warning("groups", what, numbers, why=why, type=kind)]
    return [ok("groups", what, numbers)]


def files(config: Config) -> list[Finding]:
    """The files that the configuration names."""
    wrong = config_files.files(config)
    if not wrong:
        return [ok("files", "every file that the configuration names is there")]
    why = "it is read in the course of the run"
    return [failure("files", str(one), why=why, type="the right path, as the message says") for one in wrong]


def prompts(config: Config, prompt_set: PromptSet, policy: Policy) -> list[Finding]:
    """How many prompts are cut by the text encoders, and how many occur more than once."""
    total = len(prompt_set.texts)
    step = max(1, math.ceil(total / ASKED))
    sample = prompt_set.texts[::step]
    cut = [text for text in sample if policy.truncated(text)]
    read, repeated = total + prompt_set.duplicates, total - len(set(prompt_set.texts))
    what = (
        f"{total} prompts; {len(cut)} of {len(sample)} looked at are cut, {repeated} have the text of "
        f"another, {prompt_set.duplicates} equal rows of the source were left out"
    )
    numbers: dict[str, Number] = {
        "prompts": total,
        "truncated_share": round(len(cut) / len(sample), 4),
        "repeated_share": round(repeated / total, 4),
        "left_out_share": round(prompt_set.duplicates / read, 4),
    }
    findings = []
    if len(cut) > SHARE * len(sample):
        why = f"the policy never sees their ends, which scorers may judge; the first: {cut[0][:80]!r}"
        kind = "data.path=FILE with shorter prompts"
        if config.model.max_tokens is not None:
            kind = f"model.max_tokens={2 * config.model.max_tokens} where the family can, or {kind}"
        findings.append(warning("prompts", what, numbers, why=why, type=kind))
    if repeated > SHARE * total:
        why = "a text that stands there n times, with other metadata each time, is drawn n times as often"
        findings.append(warning("prompts", what, numbers, why=why, type="data.path=FILE without repetitions"))
    return findings or [ok("prompts", what, numbers)]
