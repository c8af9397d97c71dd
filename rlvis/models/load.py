"""From a family's name to a policy: a module of rlvis/models/families, or a class of the user's own."""

from __future__ import annotations

import torch

from rlvis.models.policy import Policy
from rlvis.named import Folder
from rlvis.schema import ModelConfig

CONTRACT = (
    "class NAME(rlvis.models.policy.Policy) with pipeline_name, lora_targets, geometry, embed, truncated, "
    "schedule, denoise and decode_chunk (docs/add_a_model.md)"
)
# Imported by name and on demand: a family's file may need packages that others do not.
FAMILIES = Folder("model.family", "rlvis.models.families", CONTRACT)


def family(name: str) -> type[Policy]:
    """The class that model.family names; what it says of itself is known before any weight is read.

    Raises ConfigError for an unknown name, and for a class that is no whole policy.
    """
    found = FAMILIES.find(name)
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise FAMILIES.misfit(name, "it is no subclass of Policy")
    hooks = sorted(getattr(found, "__abstractmethods__", ()))
    missing = [*(n for n in ("pipeline_name", "lora_targets") if not hasattr(found, n)), *hooks]
    if missing:
        raise FAMILIES.misfit(name, f"it has no {', '.join(missing)}")
    return found


def load_policy(
    config: ModelConfig, device: torch.device | str, *, keep_reference: bool = False, seed: int = 0
) -> Policy:
    """Load the policy of `config` onto `device`, ready for training (see `Policy`).

    keep_reference: keep a frozen copy when the whole denoiser is trained (needed when advantage.kl_beta > 0).
    seed: of the LoRA initialisation, equal on all processes.

    Raises ConfigError on an unknown family, and whatever `Policy` raises.
    """
    return family(config.family)(config, device, keep_reference=keep_reference, seed=seed)
