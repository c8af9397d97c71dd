"""What must hold inside `model`; what a family needs, its class says.

The class is imported inside of the functions, for it needs torch; no weight is read.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.schema import CfgGrad, Condition, ModelConfig

if typing.TYPE_CHECKING:
    from rlvis.models.policy import Policy


def family_of(model: ModelConfig) -> type[Policy] | None:
    """The class of model.family; None where there is none (`model_errors` says why)."""
    from rlvis.models import load

    try:
        return load.family(model.family)
    except ConfigError:
        return None


def model_errors(model: ModelConfig) -> Iterator[Finding]:
    """What is wrong with the family and with guidance."""
    if model.cfg == 1.0 and model.negative_prompt:
        yield mistake(
            f"model.negative_prompt={model.negative_prompt!r} does nothing with model.cfg=1, which runs no "
            "second branch",
            "model.cfg=4.5 or model.negative_prompt=''",
        )
    if model.cfg == 1.0 and model.cfg_grad is not CfgGrad.both:
        yield mistake(
            f"model.cfg_grad={model.cfg_grad} does nothing with model.cfg=1, which runs no second branch",
            "model.cfg=4.5 or model.cfg_grad=both",
        )
    from rlvis.models import load, options

    if model.condition is not Condition.none and model.frames == 1:
        return  # told with the data: no frame is left to make
    try:
        yield from options.errors(load.family(model.family), model)
    except ConfigError as error:
        yield from error.findings
