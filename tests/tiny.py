"""Tiny random pipelines of real diffusers classes, for tests: built and saved in a fraction of a second.

Random weights, so pictures mean nothing; what counts is that shapes, configurations and files are those of
the real families.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests import sides

WIDTH = 32
TOKENS = 24  # of CLIP
UNQUANTISED = {"use_quant_conv": False, "use_post_quant_conv": False}  # as the autoencoders from SD3 on


# Of an autoencoder of 4 latent channels and factor 4.
FACTOR_4: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (8, 8, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": 32,
}
# Of Wan's autoencoder and its kin: 4 latent channels, factor 4.
CAUSAL: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "latents_mean": [-0.3, 0.1, 0.2, 0.4],
    "latents_std": [0.7, 1.5, 1.1, 0.9],
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights inside of it are drawn from `seed`; the global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def autoencoder(**options: Any) -> Any:
    """An AutoencoderKL of FACTOR_4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**FACTOR_4, **options)


def sd3(
    folder: Path,
    *,
    t5: bool = False,
    dual: bool = False,
    qk_norm: str | None = None,
    shift: float = 3.0,
    seed: int = 0,
) -> Path:
    """Save a StableDiffusion3Pipeline: 4 latent channels, autoencoder factor 4, patch 2, to 64 x 64 pixels.

    t5: with a third text encoder (otherwise null, as the small published checkpoints). dual: a second
    attention in the first block (SD3.5 medium). qk_norm: None (SD3) or "rms_norm" (SD3.5).
    """
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    with seeded(seed):
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            pos_embed_max_size=8,
            dual_attention_layers=(0,) if dual else (),
            qk_norm=qk_norm,
        )
        vae = autoencoder(scaling_factor=1.5305, shift_factor=0.0609, **UNQUANTISED)
        pipe = StableDiffusion3Pipeline(
            transformer=rough(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=rough(vae),
            text_encoder=clip_encoder(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=clip_encoder(),
            tokenizer_2=clip_tokenizer(),
            text_encoder_3=t5_encoder() if t5 else None,
            tokenizer_3=word_tokenizer() if t5 else None,
        )
    pipe.save_pretrained(folder)
    return folder


# Of Wan's denoiser.
WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": WIDTH,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def wan(
    folder: Path,
    *,
    expand: bool = False,
    unipc: bool = False,
    seed: int = 0,
    kind: Any = None,
    **parts: Any,
) -> Path:
    """Save a WanPipeline: 4 latent channels, autoencoder factor 4 in space and time, patch 1 x 2 x 2.

    expand: a time for each token (Wan2.2-TI2V), so that a first frame can be given. unipc: the released
    scheduler instead of Euler's. kind: another class. parts: in place of components or options.
    """
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    with seeded(seed):
        transformer = WanTransformer3DModel(**WAN)
        vae = AutoencoderKLWan(
            **CAUSAL, temperal_downsample=[True, True], scale_factor_temporal=4, scale_factor_spatial=4
        )
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
        pieces = {
            "tokenizer": word_tokenizer(),
            "text_encoder": umt5_encoder(),
            "vae": rough(vae),
            "scheduler": UniPCMultistepScheduler(**flow)
            if unipc
            else FlowMatchEulerDiscreteScheduler(shift=3.0),
            "transformer": rough(transformer),
            "expand_timesteps": expand,
        }
        (kind or WanPipeline)(**{**pieces, **parts}).save_pretrained(folder)
    return folder


T5: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": WIDTH,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}


def umt5_encoder() -> nn.Module:
    """A UMT5 encoder as wide as the text condition."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**T5)).eval()


def clip_tokenizer() -> Any:
    """A CLIP tokenizer over bytes, without merges: one token a character, 24 at most."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {name: i for i, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


CLIP: dict[str, Any] = {
    "vocab_size": 514,
    "hidden_size": WIDTH // 2,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TOKENS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def clip_encoder(**changes: Any) -> nn.Module:
    """A CLIP text model with projection, half as wide as the joint attention (two of them stand side by
    side).
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(**{**CLIP, "projection_dim": WIDTH // 2, **changes})
    return CLIPTextModelWithProjection(config).eval()


def plain_clip_encoder(**changes: Any) -> nn.Module:
    """A CLIP text model without projection."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**{**CLIP, **changes})).eval()


def t5_encoder() -> nn.Module:
    """A T5 encoder as wide as the joint attention."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**T5)).eval()


def language_model(width: int, layers: int, heads: int = 2, **changes: Any) -> dict[str, Any]:
    """The sizes of a decoder (Llama, Qwen, Mistral) with the vocabulary of `word_tokenizer`."""
    sizes = {"vocab_size": 64, "hidden_size": width, "intermediate_size": width, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": heads, **changes}


def word_tokenizer() -> Any:
    """A tokenizer of whole words that ends a text as T5 does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ("a", "red", "green", "blue", "circle", "square", "triangle", "ring", "and")
    vocabulary = {name: i for i, name in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def rough(module: Any) -> Any:
    """Add noise to every parameter: fresh models have zeros in places, which would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def stock_sd3(folder: Path) -> Any:
    """The stock StableDiffusion3Pipeline at `folder`, in float32 with frozen weights."""
    return sides.open_pipeline(folder, "StableDiffusion3Pipeline")
