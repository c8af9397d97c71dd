"""From a family's name to a policy. A new family is one more line here."""

from __future__ import annotations

from importlib import import_module

import torch

from rlvis.models.policy import Policy
from rlvis.schema import ModelConfig

# Imported by name and on demand: a family's file may need packages that others do not.
FAMILIES = {
    "cogvideox": "rlvis.models.cogvideox:CogVideoX",
    "flux": "rlvis.models.flux:Flux",
    "flux2": "rlvis.models.flux2:Flux2",
    "hunyuan_video": "rlvis.models.hunyuan_video:HunyuanVideo",
    "ltx": "rlvis.models.ltx:Ltx",
    "qwen_image": "rlvis.models.qwen_image:QwenImage",
    "sd15": "rlvis.models.sd15:StableDiffusion",
    "sd3": "rlvis.models.sd3:StableDiffusion3",
    "sdxl": "rlvis.models.sdxl:StableDiffusionXL",
    "wan": "rlvis.models.wan:Wan",
    "z_image": "rlvis.models.z_image:ZImage",
}


def load_policy(
    config: ModelConfig, device: torch.device | str, *, keep_reference: bool = False, seed: int = 0
) -> Policy:
    """Load the policy of `config` onto `device`, ready for training (see `Policy`).

    keep_reference: keep a frozen copy when the whole denoiser is trained (needed when advantage.kl_beta > 0).
    seed: of the LoRA initialisation, equal on all processes.

    Raises ValueError on an unknown family, and whatever `Policy` raises.
    """
    family = _own(config.family) if ":" in config.family else _known(config.family)
    return family(config, device, keep_reference=keep_reference, seed=seed)


def _known(name: str) -> type[Policy]:
    if name not in FAMILIES:
        raise ValueError(
            f"model.family={name} is not known; choose one of {', '.join(sorted(FAMILIES))}, or give "
            "module:Class for one of your own (docs/add_a_model.md)"
        )
    module, _, kind = FAMILIES[name].partition(":")
    family: type[Policy] = getattr(import_module(module), kind)
    return family


def _own(name: str) -> type[Policy]:
    """The class of `module:Class`, which is somebody else's file."""
    module, _, kind = name.partition(":")
    try:
        family = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model.family={name}: {error}; wanted module:Class, and the module's folder on PYTHONPATH"
        ) from error
    if not (isinstance(family, type) and issubclass(family, Policy)):
        raise ValueError(f"model.family={name} is not a subclass of rlvis.models.policy.Policy")
    return family
