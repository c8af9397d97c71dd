"""Which options of `model` a family takes, said before anything is read."""

from __future__ import annotations

from rlvis.models.family import Family
from rlvis.schema import Condition, ModelConfig


def check(family: type[Family], config: ModelConfig) -> None:
    """Raise ValueError for guidance and conditions that a family does not have."""
    name = f"model.family={config.family}"
    if not config.cfg >= 1:
        raise ValueError(f"model.cfg must be at least 1 (1 is no guidance), got {config.cfg}")
    if config.condition is not Condition.none and not family.takes_frames:
        raise ValueError(
            f"model.condition={config.condition.value}: {name} starts from noise alone; type "
            "model.condition=none"
        )
    if config.guidance is not None and not family.takes_guidance:
        raise ValueError(
            f"model.guidance={config.guidance}: the denoiser of {name} is not told a guidance scale; "
            "type model.guidance=null, and model.cfg=... for classifier-free guidance"
        )
    if config.guidance is not None and not config.guidance >= 0:
        raise ValueError(f"model.guidance must be at least 0, got {config.guidance}")
    if config.cfg_2 is not None and not family.takes_cfg_2:
        raise ValueError(f"model.cfg_2={config.cfg_2}: {name} has no second expert; type model.cfg_2=null")
