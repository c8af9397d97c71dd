"""What must hold between the keys of a plan."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.runtime.gpus import PEAKS, match
from rlvis.schema import Config


def plan_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with plan and plan_*."""
    if not config.plan:
        return
    if config.dry_run:
        yield mistake("plan=true and dry_run=true: each ends the program with its own numbers; leave one out")
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
