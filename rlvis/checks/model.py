"""What must hold inside `model`; what a family needs, its class says.

The class is imported inside of the functions, for it needs torch; no weight is read. What only the
configuration files of a checkpoint know is asked where they are on this machine.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.schema import ALL_LINEAR, CfgGrad, Condition, ModelConfig

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
    if model.lora is not None:
        yield from _targets(model.lora.targets)
    from rlvis.models import load, options

    if model.condition is not Condition.none and model.frames == 1:
        return  # told with the data: no frame is left to make
    try:
        yield from options.errors(load.family(model.family), model)
    except ConfigError as error:
        yield from error.findings


def path_errors(path: str) -> Iterator[Finding]:
    """Whether a folder holds a LoRA or weights alone instead of a model."""
    folder = Path(path).expanduser()
    if not folder.is_dir() or (folder / "model_index.json").is_file():
        return
    adapters = ("adapter_config.json", "pytorch_lora_weights*.safetensors", "*lora*.safetensors")
    files = sorted(file.name for pattern in adapters for file in folder.glob(pattern))
    if files:
        yield mistake(
            f"model.path={path} holds a LoRA ({files[0]}) and no model_index.json: it changes a model, and "
            "is none",
            "model.path=BASE, the model that the LoRA was made for; to train on from it, save BASE with it "
            "fused (pipe.load_lora_weights, fuse_lora, unload_lora_weights, save_pretrained) and give that",
        )


def adapter_errors(model: ModelConfig) -> Iterator[Finding]:
    """Targets and rank of the LoRA against the layers of the denoiser, as its configuration file has them;
    none for a checkpoint that is not on this machine.
    """
    kind = family_of(model)
    if model.lora is None or kind is None:
        return
    from rlvis.models import lora, shapes, source

    try:
        denoiser = shapes.denoiser(source.resolve(model.path), kind.denoiser_name)
        if denoiser is not None:
            lora.adapted(denoiser, model.lora, kind.lora_targets)
    except ValueError as error:
        yield mistake(str(error))


def _targets(targets: typing.Any) -> Iterator[Finding]:
    words = [targets] if isinstance(targets, str) else targets
    listed = isinstance(words, list) and all(isinstance(word, str) and word for word in words)
    if targets is None or targets == ALL_LINEAR or (listed and words is targets and words):
        return
    yield mistake(
        f"model.lora.targets={targets}: wanted null (the family's own), {ALL_LINEAR}, or ends of names",
        f"model.lora.targets=[to_q,to_v] or model.lora.targets={ALL_LINEAR}",
    )
