"""Seconds of a training step: counted operations over an assumed rate. An estimate, and it says so.

Counted are matrix products, convolutions and attention of text encoders, denoiser and autoencoder. Not
counted: memory traffic, communication between GPUs, reward models, sample sheets, evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlvis.flow.windows import trained_transitions
from rlvis.plan.measure import Measured
from rlvis.plan.summary import forwards
from rlvis.runtime.gpus import PEAKS, match
from rlvis.schema import Config, Dtype, OldLogProb

UTILISATION = 0.4  # assumed share of the peak that a whole step reaches


@dataclass(frozen=True)
class Rate:
    """Operations a second that a step is taken to achieve, in the model's dtype and in float32, and why."""

    wide: float
    single: float
    why: str


@dataclass(frozen=True)
class Times:
    """Seconds of a step on one GPU, by stage."""

    stages: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.stages.values())


def rate(config: Config, device: str | None) -> Rate | None:
    """What plan_tflops says, else a table by the name of the GPU; None where neither helps.

    device: name of the GPU that is here, if there is one; plan_gpu goes before it.
    """
    if config.plan_tflops is not None:
        given = config.plan_tflops * 1e12
        return Rate(given, given, f"{config.plan_tflops:g} TFLOP/s as plan_tflops says")
    name = config.plan_gpu or device
    gpu = None if name is None else match(name)
    if gpu is None:
        return None
    half, single = PEAKS[gpu]
    peak = single if config.model.dtype is Dtype.float32 else half
    why = (
        f"{UTILISATION * peak:.3g} TFLOP/s, an assumed {UTILISATION:.0%} of {peak:g} on {gpu} "
        f"({config.model.dtype}); plan_tflops=N for what you have measured"
    )
    return Rate(UTILISATION * peak * 1e12, UTILISATION * single * 1e12, why)


def operations(config: Config, measured: Measured, gpus: int) -> dict[str, float]:
    """Operations of one step on one GPU by stage; decoding runs in float32."""
    data, train = config.data, config.train
    rows = math.ceil(data.prompts_per_step * data.samples_per_prompt / gpus)
    sample, update = forwards(config, gpus)
    branches = 2 if config.model.cfg > 1 else 1
    old = config.advantage.old_logprob is OldLogProb.recompute
    again = math.ceil(rows / train.micro_batch) * trained_transitions(config.sampler) if old else 0
    return {
        "encode": measured.encode.flops / branches * (data.prompts_per_step + branches - 1),
        "sample": measured.sample.flops * sample,
        "decode": measured.decode.flops * math.ceil(rows / measured.decode_rows),
        "update": measured.train.flops * update + measured.sample.flops * again,
    }


def times(config: Config, measured: Measured, gpus: int, speed: Rate) -> Times:
    """Seconds by stage at the given rate."""
    needed = operations(config, measured, gpus)
    return Times({k: n / (speed.single if k == "decode" else speed.wide) for k, n in needed.items()})
