"""From a family's name to a policy. A new family is one more line here."""

from __future__ import annotations

from importlib import import_module

import torch

from rlvis.models.policy import Policy
from rlvis.schema import ModelConfig

# Imported by name and on demand: a family's file may need packages that others do not.
FAMILIES = {
    "sd3": "rlvis.models.sd3:StableDiffusion3",
    "wan": "rlvis.models.wan:Wan",
}


def load_policy(
    config: ModelConfig, device: torch.device | str, *, keep_reference: bool = False, seed: int = 0
) -> Policy:
    """Load the policy of `config` onto `device`, ready for training (see `Policy`).

    keep_reference: keep a frozen copy when the whole denoiser is trained (needed when advantage.kl_beta > 0).
    seed: of the LoRA initialisation, equal on all processes.

    Raises ValueError on an unknown family, and whatever `Policy` raises.
    """
    if config.family not in FAMILIES:
        raise ValueError(
            f"model.family={config.family} is not known; choose one of {', '.join(sorted(FAMILIES))}"
        )
    module, _, name = FAMILIES[config.family].partition(":")
    family: type[Policy] = getattr(import_module(module), name)
    return family(config, device, keep_reference=keep_reference, seed=seed)
