"""LoRA on a denoiser (Hu et al. 2021): injection by peft, and a file that stock `load_lora_weights` opens.

Unusual: the adapter's configuration is saved as metadata beside the weights. Without it diffusers assumes
that alpha equals the rank, and a LoRA trained at another alpha comes back scaled, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.schema import LoraConfig

# Targets that families share: the attention of both streams of a joint (MMDiT) block.
JOINT_ATTENTION = (
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "attn.to_k",
    "attn.to_out.0",
    "attn.to_q",
    "attn.to_v",
)
ADAPTER = "default"
FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights_2.safetensors")  # of a second denoiser


def inject(module: nn.Module, config: LoraConfig, default_targets: Sequence[str], seed: int) -> None:
    """Add adapters in place: A normal with std 1/rank from `seed`, B zero, so the policy starts unchanged.

    Only the adapters require gradients afterwards; they are float32 whatever the base is.

    Raises:
        ValueError: rank or alpha below 1, or a target that is the end of no linear or convolution layer's
            name.
    """
    import peft

    if config.rank < 1 or config.alpha < 1:
        raise ValueError(
            f"model.lora needs rank and alpha of at least 1, got rank={config.rank} alpha={config.alpha}"
        )
    targets = list(default_targets if config.targets is None else config.targets)
    layers = [name for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)]
    missing = [t for t in targets if not any(name == t or name.endswith("." + t) for name in layers)]
    if missing or not targets:
        some = ", ".join(sorted({_without_index(name) for name in layers})[:12])
        raise ValueError(
            f"model.lora.targets={missing or targets} match no layer of {type(module).__name__}; a target is "
            f"the end of a layer's name, and some names here are {some}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=targets, init_lora_weights="gaussian"
        )
        denoiser: Any = module
        denoiser.add_adapter(adapter, adapter_name=ADAPTER)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save(
    pipeline_class: Any, module: nn.Module, prefix: str, file: Path, state: Mapping[str, Tensor]
) -> None:
    """Write `state` (parameters by their names in the module) to `file`.

    prefix: the pipeline's name of the module, "transformer" or "unet".
    """
    import peft

    denoiser: Any = module
    metadata = denoiser.peft_config[ADAPTER].to_dict()
    metadata["target_modules"] = sorted(
        metadata["target_modules"]
    )  # a set: sorted, so that equal weights are equal files
    layers = peft.get_peft_model_state_dict(module, state_dict=dict(state), adapter_name=ADAPTER)
    pipeline_class.save_lora_weights(
        save_directory=file.parent,
        weight_name=file.name,
        **{f"{prefix}_lora_layers": layers, f"{prefix}_lora_adapter_metadata": metadata},
    )


def _without_index(name: str) -> str:
    """The end of a layer's name that its siblings in other blocks share: transformer_blocks.3.attn.to_q ->
    attn.to_q.
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :] if numbers else parts)
