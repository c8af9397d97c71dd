"""Policies to measure on: the tiny one that comes with rlvis, and random SD3 transformers of any width.

Weights are random where no trained ones are needed, for the time of a forward does not depend on them. The
pipelines have no text encoders: conditions are random numbers of the right shape.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlvis.data.world import language
from rlvis.models import source
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.schema import LoraConfig, ModelConfig

CHANNELS, FACTOR, PATCH = 4, 4, 2  # of the latents; pixels a latent; latents a token


@dataclass(frozen=True)
class Size:
    """Width, layers and heads of the transformer, latent x latent latents, tokens of text, rank of the LoRA.

    asset: a policy that comes with rlvis and is taken when it is there (the other numbers are the asset's).
    """

    name: str
    width: int
    layers: int
    heads: int
    latent: int
    tokens: int
    lora: int | None = None
    asset: str | None = None

    def describe(self) -> str:
        """One line for a table."""
        trained = "all weights trained" if self.lora is None else f"LoRA of rank {self.lora} trained"
        return (
            f"{self.layers} layers of width {self.width}, {self.latent}x{self.latent} latents, "
            f"{(self.latent // PATCH) ** 2} + {self.tokens} tokens, {trained}"
        )


TINY = Size("tiny_image", width=96, layers=4, heads=4, latent=8, tokens=16, asset="asset:tiny_image")
WIDE = Size("width 384", width=384, layers=2, heads=6, latent=32, tokens=16, lora=32)


def load(size: Size, folder: Path, device: torch.device) -> tuple[Policy, str]:
    """The policy on `device`, and where its weights come from; random ones are written to `folder`."""
    path, origin = str(folder / size.name.replace(" ", "_")), "random weights"
    try:
        if size.asset is not None:
            source.resolve(size.asset)
            path, origin = size.asset, size.asset
    except ValueError:
        origin = f"random weights ({size.asset} is not there)"
    if path != size.asset:
        _save_random(size, Path(path))
    pixels = size.latent * FACTOR
    lora = None if size.lora is None else LoraConfig(rank=size.lora, alpha=2 * size.lora)
    config = ModelConfig(family="sd3", path=path, height=pixels, width=pixels, lora=lora)
    return load_policy(config, device), origin


def prompts(policy: Policy, size: Size, count: int) -> PromptBatch:
    """`count` prompts of the shapes world with random conditions of `size.tokens` tokens."""
    texts = (language.prompts() * count)[:count]
    config: Any = policy.module.config
    random = torch.Generator().manual_seed(0)
    return PromptBatch(
        index=torch.arange(count),
        texts=tuple(texts),
        metadata=tuple({} for _ in texts),
        embeds={
            "prompt_embeds": torch.randn(count, size.tokens, config.joint_attention_dim, generator=random),
            "pooled_prompt_embeds": torch.randn(count, config.pooled_projection_dim, generator=random),
        },
    )


def _save_random(size: Size, folder: Path) -> None:
    stock: Any = importlib.import_module("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = stock.SD3Transformer2DModel(
            sample_size=size.latent,
            patch_size=PATCH,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=size.layers,
            attention_head_dim=size.width // size.heads,
            num_attention_heads=size.heads,
            joint_attention_dim=96,
            caption_projection_dim=size.width,
            pooled_projection_dim=96,
            pos_embed_max_size=size.latent,
            qk_norm="rms_norm",
        )
        vae = stock.AutoencoderKL(
            block_out_channels=(16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=CHANNELS,
            norm_num_groups=4,
            sample_size=size.latent * FACTOR,
            mid_block_add_attention=False,
            force_upcast=False,
            scaling_factor=1.0,
            shift_factor=0.0,
        )
    absent = {f"{part}{end}": None for part in ("text_encoder", "tokenizer") for end in ("", "_2", "_3")}
    scheduler = stock.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = stock.StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, vae=vae, **absent)
    pipe.save_pretrained(folder)
