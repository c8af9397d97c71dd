"""What must hold inside `model`; what a family needs, its module says."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.schema import CfgGrad, ModelConfig


def model_errors(model: ModelConfig) -> Iterator[Finding]:
    """What is wrong with sizes, guidance, LoRA and average."""
    for key, value in (("height", model.height), ("width", model.width), ("frames", model.frames)):
        if value < 1:
            yield mistake(
                f"model.{key}={value}: wanted at least 1", f"model.{key}={1 if key == 'frames' else 512}"
            )
    if not 1 <= model.cfg < math.inf:
        yield mistake(f"model.cfg={model.cfg}: wanted 1 (no guidance) or more", "model.cfg=4.5")
    if model.cfg == 1.0 and model.negative_prompt:
        yield mistake(
            f"model.negative_prompt={model.negative_prompt!r} does nothing with model.cfg=1, which runs no "
            "second branch",
            "model.cfg=4.5 or model.negative_prompt=''",
        )
    if model.cfg == 1.0 and model.cfg_grad is not CfgGrad.both:
        yield mistake(
            f"model.cfg_grad={model.cfg_grad.value} does nothing with model.cfg=1, which runs no second "
            "branch",
            "model.cfg=4.5 or model.cfg_grad=both",
        )
    if model.lora is not None and (model.lora.rank < 1 or model.lora.alpha < 1):
        yield mistake(
            f"model.lora.rank={model.lora.rank}, model.lora.alpha={model.lora.alpha}: both must be at least "
            "1",
            "'model.lora={rank: 32, alpha: 64}', or model.lora=null to train all weights",
        )
    if model.ema is not None and (not 0 < model.ema.decay < 1 or model.ema.every < 1):
        yield mistake(
            f"model.ema.decay={model.ema.decay}, model.ema.every={model.ema.every}: wanted a decay between 0 "
            "and 1 and every >= 1",
            "'model.ema={decay: 0.9, every: 8}', or model.ema=null for no average",
        )
