"""What ComfyUI calls the layers that each family trains by default, read off its source: data for tests.

Name there, with * for a block's number -> ours, those of one fused layer in the order of its rows. Of 0.3.64:
the modules in comfy/ldm, and the tables of diffusers' names in comfy/utils.py (sd3, flux, sd15, sdxl); of
0.12 for flux2 and z_image; of a later one for cogvideox.
"""

from __future__ import annotations

JOINT = [
    *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
    *("to_k", "to_out.0", "to_q", "to_v"),
]
SELF_AND_TEXT = [f"attn{i}.{layer}" for i in (1, 2) for layer in ("to_k", "to_out.0", "to_q", "to_v")]
QKV = ("to_q", "to_k", "to_v")


def _as_ours(prefix: str, layers: list[str]) -> dict[str, list[str]]:
    return {prefix + layer: [layer] for layer in layers}


def _unet(blocks: list[str]) -> dict[str, list[str]]:
    layers = [f"{block}.transformer_blocks.*.{layer}" for block in blocks for layer in SELF_AND_TEXT]
    return {f"lora_unet_{layer.replace('.', '_')}": [layer] for layer in layers}


DOUBLE = {
    "diffusion_model.double_blocks.*.img_attn.qkv": [f"transformer_blocks.*.attn.{x}" for x in QKV],
    "diffusion_model.double_blocks.*.img_attn.proj": ["transformer_blocks.*.attn.to_out.0"],
}
NAMES: dict[str, dict[str, list[str]]] = {
    "sd3": _as_ours("transformer.", [f"transformer_blocks.*.attn.{layer}" for layer in JOINT]),
    "flux": _as_ours(
        "transformer.",
        [f"transformer_blocks.*.attn.{layer}" for layer in JOINT]
        + [f"transformer_blocks.*.{ff}.net.{n}" for ff in ("ff", "ff_context") for n in ("0.proj", "2")]
        + [f"single_transformer_blocks.*.attn.{layer}" for layer in QKV],
    ),
    "qwen_image": _as_ours(
        "diffusion_model.",
        [f"transformer_blocks.*.attn.{layer}" for layer in JOINT]
        + [f"transformer_blocks.*.{m}.net.{n}" for m in ("img_mlp", "txt_mlp") for n in ("0.proj", "2")],
    ),
    "z_image": _as_ours(
        "transformer.",
        [
            f"{block}.*.attention.{layer}"
            for block in ("layers", "noise_refiner", "context_refiner")
            for layer in (*QKV, "to_out.0")
        ],
    ),
    "ltx": _as_ours("diffusion_model.", [f"transformer_blocks.*.{layer}" for layer in SELF_AND_TEXT]),
    "sd15": _unet(["down_blocks.*.attentions.*", "mid_block.attentions.*", "up_blocks.*.attentions.*"]),
    "sdxl": _unet(["down_blocks.*.attentions.*", "mid_block.attentions.*", "up_blocks.*.attentions.*"]),
    "wan": {
        f"diffusion_model.blocks.*.{theirs}.{letter}": [f"blocks.*.{ours}.{layer}"]
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for letter, layer in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    },
    "hunyuan_video": DOUBLE
    | {
        "diffusion_model.single_blocks.*.linear1": [
            *(f"single_transformer_blocks.*.attn.{x}" for x in QKV),
            "single_transformer_blocks.*.proj_mlp",
        ],
        "diffusion_model.txt_in.individual_token_refiner.blocks.*.self_attn.qkv": [
            f"context_embedder.token_refiner.refiner_blocks.*.attn.{x}" for x in QKV
        ],
        "diffusion_model.txt_in.individual_token_refiner.blocks.*.self_attn.proj": [
            "context_embedder.token_refiner.refiner_blocks.*.attn.to_out.0"
        ],
    },
    "flux2": DOUBLE
    | {
        "diffusion_model.double_blocks.*.txt_attn.qkv": [
            f"transformer_blocks.*.attn.add_{x}_proj" for x in ("q", "k", "v")
        ],
        "diffusion_model.double_blocks.*.txt_attn.proj": ["transformer_blocks.*.attn.to_add_out"],
        "diffusion_model.double_blocks.*.img_mlp.0": ["transformer_blocks.*.ff.linear_in"],
        "diffusion_model.double_blocks.*.img_mlp.2": ["transformer_blocks.*.ff.linear_out"],
        "diffusion_model.double_blocks.*.txt_mlp.0": ["transformer_blocks.*.ff_context.linear_in"],
        "diffusion_model.double_blocks.*.txt_mlp.2": ["transformer_blocks.*.ff_context.linear_out"],
        "diffusion_model.single_blocks.*.linear1": ["single_transformer_blocks.*.attn.to_qkv_mlp_proj"],
    },
    "cogvideox": {
        f"diffusion_model.blocks.*.{theirs}": [f"transformer_blocks.*.attn1.{ours}"]
        for theirs, ours in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("attn_out", "to_out.0"))
    },
}
NAMES["wan22"] = NAMES["wan"]
NAMES["wan_i2v"] = NAMES["wan"] | {
    "diffusion_model.blocks.*.cross_attn.k_img": ["blocks.*.attn2.add_k_proj"],
    "diffusion_model.blocks.*.cross_attn.v_img": ["blocks.*.attn2.add_v_proj"],
}
