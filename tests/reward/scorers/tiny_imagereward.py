"""ImageReward's file with every published name, at tiny width, beside its configuration and BERT's words."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

SIZE, PATCH, WIDTH, DEPTH = 32, 16, 128, 2  # of the vision half; two heads of 64
TEXT, LAYERS, HEADS, INNER = 32, 2, 2, 48
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "square", "ring", "two"]
CONFIG = {
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": TEXT,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": len(WORDS) + 2,
    "encoder_width": TEXT,  # as published: not the vision half's width, and not used
    "add_cross_attention": True,
}


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file, at these sizes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, wide: int, deep: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (wide, deep), (wide,)

    def norm(name: str, wide: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (wide,), (wide,)

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    shapes[f"{vision}.cls_token"] = (1, 1, WIDTH)
    shapes[f"{vision}.pos_embed"] = (1, (SIZE // PATCH) ** 2 + 1, WIDTH)
    shapes[f"{vision}.patch_embed.proj.weight"] = (WIDTH, 3, PATCH, PATCH)
    shapes[f"{vision}.patch_embed.proj.bias"] = (WIDTH,)
    for i in range(DEPTH):
        block = f"{vision}.blocks.{i}"
        norm(f"{block}.norm1", WIDTH)
        layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        layer(f"{block}.attn.proj", WIDTH, WIDTH)
        norm(f"{block}.norm2", WIDTH)
        layer(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH)
        layer(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    norm(f"{vision}.norm", WIDTH)
    shapes[f"{text}.embeddings.position_ids"] = (1, 64)
    shapes[f"{text}.embeddings.word_embeddings.weight"] = (len(WORDS) + 2, TEXT)
    shapes[f"{text}.embeddings.position_embeddings.weight"] = (64, TEXT)
    norm(f"{text}.embeddings.LayerNorm", TEXT)
    for i in range(LAYERS):
        for name, width in (("attention", TEXT), ("crossattention", WIDTH)):
            part = f"{text}.encoder.layer.{i}.{name}"
            layer(f"{part}.self.query", TEXT, TEXT)
            layer(f"{part}.self.key", TEXT, width)
            layer(f"{part}.self.value", TEXT, width)
            layer(f"{part}.output.dense", TEXT, TEXT)
            norm(f"{part}.output.LayerNorm", TEXT)
        layer(f"{text}.encoder.layer.{i}.intermediate.dense", INNER, TEXT)
        layer(f"{text}.encoder.layer.{i}.output.dense", TEXT, INNER)
        norm(f"{text}.encoder.layer.{i}.output.LayerNorm", TEXT)
    layer("blip.vision_proj", 256, WIDTH)
    layer("blip.text_proj", 256, TEXT)
    for place, sizes in {
        "0": (1024, TEXT),
        "2": (128, 1024),
        "4": (64, 128),
        "6": (16, 64),
        "7": (1, 16),
    }.items():
        layer(f"mlp.layers.{place}", *sizes)
    return shapes


def state_dict() -> dict[str, Tensor]:
    """Random weights under the published names, of the size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in layout().items():
        fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
        state[name] = torch.randn(shape, generator=generator) * fan**-0.5
        if "norm" in name.lower() and name.endswith("weight"):
            state[name] += 1
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    return state


def save(folder: Path) -> Path:
    """ImageReward.pt, med_config.json and vocab.txt."""
    folder.mkdir(exist_ok=True)
    torch.save(state_dict(), folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder
