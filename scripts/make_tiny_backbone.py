"""Write rlvis/assets/tiny_backbone: a DINOv2 of 0.06M random weights for tests and tiny runs, the same every
time.

Untrained: its tokens follow colour and position of a patch, which is structure enough for a 32-pixel
drawing, but it has learned nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[1] / "rlvis" / "assets" / "tiny_backbone"
README = """# tiny_backbone

A `Dinov2Model` with {count} random weights (width 48, 2 layers, patches of 4 pixels; {size} kB): the vision
backbone behind `advantage.map.backbone=tiny`, for tests and runs of tiny policies. It is untrained: its
tokens follow the colour and the position of a patch, and maps made from it say no more than that.

Made by `python scripts/make_tiny_backbone.py` (seed 0, deterministic).
"""


def main() -> None:
    """Build and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    out = parser.parse_args().out
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=4,
        patch_size=4,
        image_size=32,
        layerscale_value=1.0,
    )
    model = Dinov2Model(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embeddings.mask" not in name:
                # 1/sqrt(fan in) keeps tokens apart; positions stay quieter than content.
                fan = weight[0].numel() if weight.ndim != 3 else 1
                scale = 0.1 if weight.ndim == 3 else fan**-0.5
                weight.copy_(torch.randn(weight.shape, generator=draw) * scale)
    model.save_pretrained(out)
    weights = out / "model.safetensors"
    count = sum(p.numel() for p in model.parameters())
    (out / "README.md").write_text(
        README.format(count=count, size=weights.stat().st_size // 1000), encoding="ascii"
    )


if __name__ == "__main__":
    main()
