"""What must hold for the size of a step: samples, groups, updates, and the processes that share them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.checks.sequence import degree
from rlvis.findings import Finding, mistake
from rlvis.schema import Config


def step_errors(config: Config, shares: int) -> Iterator[Finding]:
    """What is wrong with the numbers of `data` and `train`.

    shares: processes, or groups of them that share the tokens of a sample.
    """
    data, train = config.data, config.train
    p, k = data.prompts_per_step, data.samples_per_prompt
    if k < 2:
        yield mistake(
            f"data.samples_per_prompt={k}: an advantage compares samples of the same prompt, so a group "
            "needs at least 2",
            "data.samples_per_prompt=8",
        )
    best = config.advantage.best_of_n
    if best is not None and (best < 2 or best % 2 or best > k):
        yield mistake(
            f"advantage.best_of_n={best} with data.samples_per_prompt={k}: it trains the best and the worst "
            f"n//2 of each group, so it must be even and between 2 and {k}",
            f"advantage.best_of_n={max(2, k // 2 // 2 * 2)} or advantage.best_of_n=null",
        )
    rows = p * (k if best is None else min(best, k))
    if train.updates_per_step > rows >= 1:
        yield mistake(
            f"train.updates_per_step={train.updates_per_step}, but a step trains {rows} samples and every "
            "update needs one",
            f"train.updates_per_step={rows} or fewer",
        )
    together = degree(config)
    unit = "processes" if together == 1 else f"groups of {together} processes"
    if 1 <= p * k < shares:
        yield mistake(
            f"data.prompts_per_step * data.samples_per_prompt = {p} * {k} = {p * k} samples cannot be spread "
            f"over {shares} {unit}: each needs one; start at most {p * k * max(together, 1)} processes",
            f"data.prompts_per_step={math.ceil(shares / k)}",
        )
