"""DeepSpeed and the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class OptimConfig:
    lr: float = 3e-4
    weight_decay: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    grad_norm: float = 1.0


@dataclass
class EngineConfig:
    """DeepSpeed: a ZeRO stage, or a JSON file of one's own (its batch, optimizer and clipping keys are set by
    us).
    """

    stage: int = 0
    config: str | None = None
    device: str = "auto"  # auto | cpu | cuda
    sequence_parallel: int = 1  # ranks that share the tokens of one sample; divides the number of ranks
