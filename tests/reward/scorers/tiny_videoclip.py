"""VideoCLIP-XL's file with every released name, at tiny width; the vocabulary is CLIP's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

WIDTH, OUT, LAYERS, CONTEXT, WORDS = 64, 16, 2, 248, 49408
VISION = "vision_model.vision_encoder."
BLOCK = {
    "attn.in_proj_weight": (3 * WIDTH, WIDTH),
    "attn.in_proj_bias": (3 * WIDTH,),
    "attn.out_proj.weight": (WIDTH, WIDTH),
    "attn.out_proj.bias": (WIDTH,),
    "ln_1.weight": (WIDTH,),
    "ln_1.bias": (WIDTH,),
    "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
    "mlp.c_fc.bias": (4 * WIDTH,),
    "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
    "mlp.c_proj.bias": (WIDTH,),
    "ln_2.weight": (WIDTH,),
    "ln_2.bias": (WIDTH,),
}
# Every name of VideoCLIP-XL.bin, with its shape at this width.
NAMES: dict[str, tuple[int, ...]] = {
    "text_model.positional_embedding": (CONTEXT, WIDTH),
    "text_model.positional_embedding_res": (CONTEXT, WIDTH),
    "text_model.text_projection": (WIDTH, OUT),
    "text_model.logit_scale": (),
    "text_model.token_embedding.weight": (WORDS, WIDTH),
    "text_model.ln_final.weight": (WIDTH,),
    "text_model.ln_final.bias": (WIDTH,),
    "vision_model.temp": (),
    VISION + "class_embedding": (WIDTH,),
    VISION + "positional_embedding": (5, WIDTH),
    VISION + "temporal_positional_embedding": (1, 8, WIDTH),
    VISION + "proj": (WIDTH, OUT),
    VISION + "conv1.weight": (WIDTH, 3, 1, 14, 14),
    VISION + "ln_pre.weight": (WIDTH,),
    VISION + "ln_pre.bias": (WIDTH,),
    VISION + "ln_post.weight": (WIDTH,),
    VISION + "ln_post.bias": (WIDTH,),
    **{
        f"{tower}transformer.resblocks.{n}.{name}": shape
        for tower in ("text_model.", VISION)
        for n in range(LAYERS)
        for name, shape in BLOCK.items()
    },
}


def state_dict() -> dict[str, Tensor]:
    """Random weights under the released names."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, shape in NAMES.items():
        value = torch.randn(shape, generator=generator)
        # Strong enough that what a token holds, and where it stands, matters.
        size = {"in_proj_weight": 3.0}.get(name.rpartition(".")[2], 1.0)
        if value.ndim > 1 and not name.endswith(("embedding", "embedding_res")):
            value *= size / value[0].numel() ** 0.5
        result[name] = 1 + value / 4 if "ln_" in name and name.endswith("weight") else value
    return result


def save(folder: Path) -> Path:
    """VideoCLIP-XL.bin."""
    folder.mkdir(exist_ok=True)
    torch.save(state_dict(), folder / "VideoCLIP-XL.bin")
    return folder
