"""What must hold inside `engine` and `optim`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.schema import Config, Dtype, OptimConfig


def engine_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with ZeRO's stage, the device, and the model's dtype beside them."""
    engine, dtype = config.engine, config.model.dtype
    if engine.stage not in (0, 1, 2, 3):
        yield mistake(f"engine.stage={engine.stage}: ZeRO has the stages 0, 1, 2 and 3", "engine.stage=2")
    if engine.device not in ("auto", "cpu", "cuda"):
        yield mistake(f"engine.device={engine.device}: wanted auto, cpu or cuda", "engine.device=auto")
    if engine.config is None and engine.stage == 0 and dtype is Dtype.bfloat16:
        yield mistake(
            "model.dtype=bfloat16 with engine.stage=0: DeepSpeed then lets AdamW take a hidden first step "
            "with zero gradients",
            "engine=zero1 (or zero2, zero3), or model.dtype=float32",
        )


def optim_errors(optim: OptimConfig) -> Iterator[Finding]:
    """What is wrong with the learning rate, AdamW's betas and the clipping of gradients."""
    if not 0 < optim.lr < math.inf:
        yield mistake(f"optim.lr={optim.lr}: wanted a positive number", "optim.lr=3e-4")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        yield mistake(
            f"optim.betas={list(optim.betas)}: wanted two numbers in [0, 1)", "optim.betas=[0.9,0.999]"
        )
    if not 0 < optim.grad_norm < math.inf:
        yield mistake(
            f"optim.grad_norm={optim.grad_norm}: wanted a positive number, the norm that gradients are "
            "clipped to",
            "optim.grad_norm=1",
        )
