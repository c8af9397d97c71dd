"""What must hold between the keys of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.runtime.gpus import PEAKS, match
from rlvis.schema import Config


def plan_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with plan and plan_*."""
    given = {
        "plan_gpus": config.plan_gpus,
        "plan_gib": config.plan_gib,
        "plan_gpu": config.plan_gpu,
        "plan_tflops": config.plan_tflops,
    }
    if not config.plan:
        for key, value in given.items():
            if value is not None:
                yield mistake(f"{key}={value} does nothing without plan=true", "plan=true, or leave it out")
        return
    if config.dry_run:
        yield mistake("plan=true and dry_run=true: each ends the program with its own numbers; leave one out")
    if config.plan_gpus is not None and config.plan_gpus < 1:
        yield mistake(f"plan_gpus={config.plan_gpus}: wanted at least 1", "plan_gpus=8")
    for key, value, usual in (("plan_gib", config.plan_gib, 80), ("plan_tflops", config.plan_tflops, 400)):
        if value is not None and not 0 < value < math.inf:
            yield mistake(f"{key}={value}: wanted a number above 0", f"{key}={usual}")
    if config.plan_gpu is not None and config.plan_tflops is not None:
        yield mistake(
            f"plan_gpu={config.plan_gpu} does nothing with plan_tflops={config.plan_tflops:g}, which says "
            "the speed itself; leave one out"
        )
    elif config.plan_gpu is not None and match(config.plan_gpu) is None:
        yield mistake(
            f"plan_gpu={config.plan_gpu}: no speed is known for it; there are {', '.join(PEAKS)}",
            "one of them, or plan_tflops=N",
        )
