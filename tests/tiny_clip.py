"""Checkpoints of CLIP as transformers publishes them, at tiny width, for the scorers that load one."""

from __future__ import annotations

from pathlib import Path

import torch

from tests import tiny

SIZE = 32  # pixels


def save(folder: Path, seed: int = 0) -> Path:
    """Save a CLIPModel with random weights and its tokenizer: 24 tokens, pictures of 32 pixels."""
    from transformers import CLIPConfig, CLIPModel

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tiny.CLIP, **shape}
    vision = {**shape, "image_size": SIZE, "patch_size": 8}
    with tiny.seeded(seed):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        for weight in model.parameters():
            # Fresh weights of CLIP are so small that every picture looks the same.
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tiny.clip_tokenizer().save_pretrained(folder)
    return folder


def pictures(count: int, size: tuple[int, int] = (40, 57), frames: int = 1) -> torch.Tensor:
    """Seeded noise, each with a colour: uint8 [count, frames, 3, y, x]."""
    generator = torch.Generator().manual_seed(5)
    shade = torch.randint(256, (count, frames, 3, 1, 1), generator=generator)
    noise = torch.randint(-60, 60, (count, frames, 3, *size), generator=generator)
    return (shade + noise).clamp(0, 255).to(torch.uint8)
