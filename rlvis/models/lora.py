"""LoRA on a denoiser (Hu et al. 2021): injection by peft, and a file that means the same in every program.

Unusual: what is exported has alpha = rank, with the trained alpha / rank in B. Most programs find no alpha in
diffusers' files and take it to be the rank, so that a LoRA of another alpha would come back scaled, without a
word. The metadata beside the weights has only keys that peft has known for long, as older ones refuse others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rlvis.schema import ALL_LINEAR, LoraConfig

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
A, B = ".lora_A.weight", ".lora_B.weight"
METADATA = "lora_adapter_metadata"  # diffusers' name, of JSON
# Of peft's configuration, what every version since 0.14 knows.
KEYS = (
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
)


def inject(module: nn.Module, config: LoraConfig, default_targets: Sequence[str], seed: int) -> None:
    """Add adapters in place: A normal with std 1/rank from `seed`, B zero, so the policy starts unchanged.

    Only the adapters require gradients afterwards; they are float32 whatever the base is.

    Raises:
        ValueError: see `adapted`.
    """
    import peft

    layers = adapted(module, config, default_targets)
    targets = list(layers) if config.targets == ALL_LINEAR else list(config.targets or default_targets)
    alpha: Any = config.alpha  # peft says int, and only divides it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = peft.LoraConfig(
            r=config.rank,
            lora_alpha=alpha,
            target_modules=targets,
            init_lora_weights="gaussian",
        )
        denoiser: Any = module
        denoiser.add_adapter(adapter, adapter_name=ADAPTER)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def adapted(module: nn.Module, config: LoraConfig, default_targets: Sequence[str]) -> dict[str, nn.Module]:
    """The layers of `module` by name that `config` gives an adapter; shapes are enough (the meta device).

    Raises:
        ValueError: rank or alpha that is not positive, a target that is the end of no linear or convolution
            layer's name, or a rank above the smaller side of every layer.
    """
    if config.rank < 1 or config.alpha <= 0:
        raise ValueError(
            f"model.lora needs a rank of at least 1 and an alpha above 0, got rank={config.rank} "
            f"alpha={config.alpha:g}"
        )
    kinds = nn.Linear | nn.Conv2d | nn.Conv3d
    chosen: dict[str, Any]
    layers: dict[str, Any] = {name: m for name, m in module.named_modules() if isinstance(m, kinds)}
    if config.targets == ALL_LINEAR:
        chosen = {name: m for name, m in layers.items() if type(m) is nn.Linear}
    else:
        targets = list(default_targets if config.targets is None else config.targets)
        missing = [t for t in targets if not any(_ends(name, t) for name in layers)]
        if missing or not targets:
            some = ", ".join(sorted({_without_index(name) for name in layers})[:12])
            raise ValueError(
                f"model.lora.targets={missing or targets} match no layer of {type(module).__name__}; a "
                f"target is the end of a layer's name, and some names here are {some}; or type "
                f"model.lora.targets={ALL_LINEAR}"
            )
        chosen = {n: layer for n, layer in layers.items() if any(_ends(n, t) for t in targets)}
    sides = {name: min(layer.weight.shape[0], layer.weight[0].numel()) for name, layer in chosen.items()}
    name = max(sides, key=lambda each: sides[each])
    if config.rank > sides[name]:
        raise ValueError(
            f"model.lora.rank={config.rank}: none of the {len(sides)} layers that get an adapter has so many "
            f"inputs and outputs (at most {sides[name]}, in {name}), so a smaller rank does the same "
            f"with fewer weights; type model.lora.rank={sides[name]} or less, or model.lora=null to train "
            "whole weights"
        )
    return chosen


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def exported(module: nn.Module, state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Factors LAYER.lora_A.weight [r, in] and LAYER.lora_B.weight [out, r] whose product, unscaled, is what
    `state` (parameters by their names in the module) adds to LAYER's weight.
    """
    import peft

    factors = peft.get_peft_model_state_dict(module, state_dict=dict(state), adapter_name=ADAPTER)
    scale = config.alpha / config.rank
    # Where alpha / rank is a power of two nothing is rounded.
    return {name: value * scale if name.endswith(B) else value for name, value in factors.items()}


def outputs(module: nn.Module, layer: str) -> int:
    """Outputs of a layer by name, with an adapter or without."""
    found: Any = module.get_submodule(layer)
    return int(found.out_features)


def save(
    pipeline_class: Any, module: nn.Module, prefix: str, file: Path, factors: Mapping[str, Tensor]
) -> None:
    """Write `factors` (see `exported`) to `file`, as the stock `load_lora_weights` takes them.

    prefix: the pipeline's name of the module, "transformer" or "unet".
    """
    denoiser: Any = module
    whole = denoiser.peft_config[ADAPTER].to_dict()
    metadata = {key: whole[key] for key in KEYS} | {"lora_alpha": whole["r"]}
    # A set: sorted, so that equal weights are equal files.
    metadata["target_modules"] = sorted(metadata["target_modules"])
    pipeline_class.save_lora_weights(
        save_directory=file.parent,
        weight_name=file.name,
        **{f"{prefix}_lora_layers": dict(factors), f"{prefix}_lora_adapter_metadata": metadata},
    )


def load(module: nn.Module, prefix: str, file: Path, config: LoraConfig) -> None:
    """Put an exported LoRA into the adapters of `module`, whose own alpha / rank is taken out of B again.

    Raises ValueError when it is of other layers.
    """
    import peft

    with safe_open(file, framework="pt") as content:
        weights = {
            name.removeprefix(f"{prefix}."): content.get_tensor(name)
            for name in content.keys()  # noqa: SIM118 - not a dict
        }
        said = json.loads((content.metadata() or {}).get(METADATA, "{}"))
    own = said.get(f"{prefix}.lora_alpha", 1) / said.get(f"{prefix}.r", 1)
    scale = config.alpha / config.rank / own
    weights = {name: value / scale if name.endswith(B) else value for name, value in weights.items()}
    result: Any = peft.set_peft_model_state_dict(module, weights, adapter_name=ADAPTER)
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    missing = [name for name in trained if name in result.missing_keys]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{file} is a LoRA of other layers than model.lora makes: {len(missing)} are missing, "
            f"{len(result.unexpected_keys)} unknown, the first is {[*missing, *result.unexpected_keys][0]}"
        )


def _without_index(name: str) -> str:
    """The end of a layer's name that its siblings in other blocks share: transformer_blocks.3.attn.to_q ->
    attn.to_q.
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :] if numbers else parts)
