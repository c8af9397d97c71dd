"""What must hold inside `engine` and `optim`."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.schema import Config, Dtype


def engine_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with ZeRO's stage, the device, and the model's dtype beside them."""
    engine, dtype = config.engine, config.model.dtype
    if engine.config is None and engine.stage == 0 and dtype is Dtype.bfloat16:
        yield mistake(
            "model.dtype=bfloat16 with engine.stage=0: DeepSpeed then lets AdamW take a hidden first step "
            "with zero gradients",
            "engine=zero1 (or zero2, zero3), or model.dtype=float32",
        )


def optim_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with the course of the learning rate."""
    warmup, steps = config.optim.warmup, config.train.steps
    if warmup >= steps and warmup:
        yield mistake(
            f"optim.warmup={warmup} with train.steps={steps}: the learning rate would never get where "
            "optim.lr says",
            f"optim.warmup={steps // 10}, or train.steps above {warmup}",
        )
