"""DeepSpeed and the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from rlvis.schema.key import Key


class LrSchedule(StrEnum):
    """How the learning rate goes on after the warm-up; linear and cosine end at 0."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class Device(StrEnum):
    """Where a process computes; auto: on a GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class OptimConfig:
    """AdamW, and the clipping of gradients."""

    lr: Annotated[float, Key("learning rate", above=0, most=1, budget=True)] = 3e-4
    schedule: Annotated[
        LrSchedule, Key("of the learning rate over train.steps, from the end of the warm-up", budget=True)
    ] = LrSchedule.constant
    warmup: Annotated[
        int,
        Key(
            "over which the learning rate rises from 0 (its first step has 1 / warmup of it)",
            "training steps",
            least=0,
            most=10**7,
            relation="below train.steps",
            budget=True,
        ),
    ] = 0
    weight_decay: Annotated[
        float, Key("AdamW's, not through the gradient", least=0, most=10, budget=True)
    ] = 1e-4
    betas: Annotated[
        list[float],
        Key("decay of the gradient's moments", least=0, below=1, length=2, usual=[0.9, 0.999], budget=True),
    ] = field(default_factory=lambda: [0.9, 0.999])
    eps: Annotated[float, Key("added to the root of the second moment", above=0, most=1, budget=True)] = 1e-8
    grad_norm: Annotated[
        float, Key("norm that gradients are clipped to", above=0, most=1e12, usual=1, budget=True)
    ] = 1.0


@dataclass
class EngineConfig:
    """DeepSpeed: a ZeRO stage, or a JSON file of one's own (its batch, optimizer and clipping keys are set by
    us).
    """

    stage: Annotated[int, Key("of ZeRO: what is sharded over processes", choices=(0, 1, 2, 3), usual=2)] = 0
    config: Annotated[
        str | None, Key("DeepSpeed's own JSON file; null: made from engine.stage", path=True)
    ] = None
    device: Annotated[Device, Key("where a process computes; auto takes a GPU where there is one")] = (
        Device.auto
    )
    sequence_parallel: Annotated[
        int,
        Key(
            "that share the tokens of one sample",
            "processes",
            least=1,
            most=4096,
            relation="divides the number of processes, and the model's heads",
        ),
    ] = 1
