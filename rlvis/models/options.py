"""Which options of `model` a family takes, said before anything is read."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.models.family import Family
from rlvis.schema import Condition, ModelConfig


def errors(family: type[Family], config: ModelConfig) -> Iterator[Finding]:
    """Guidance and conditions that a family does not have."""
    name = f"model.family={config.family}"
    if config.condition is not Condition.none and not family.takes_frames:
        yield mistake(
            f"model.condition={config.condition}: {name} starts from noise alone", "model.condition=none"
        )
    if config.guidance is not None and not family.takes_guidance:
        yield mistake(
            f"model.guidance={config.guidance}: the denoiser of {name} is not told a guidance scale",
            "model.guidance=null, and model.cfg=... for classifier-free guidance",
        )
    if config.cfg_2 is not None and not family.takes_cfg_2:
        yield mistake(f"model.cfg_2={config.cfg_2}: {name} has no second expert", "model.cfg_2=null")
