"""The image policy: two CLIP encoders, a T5 encoder, an SD3 transformer, and the stock pipeline around them.

The T5 tokens vary in number and are zeroed at times, so that the policy depends neither on
`max_sequence_length` nor on its third encoder.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel

from pretraining.flow import integrate
from pretraining.networks import configuration, stock, text_sizes
from rlvis.data.world import draw, language

MAX_TOKENS = language.MOST_WORDS + 2  # of both CLIP tokenizers: the longest prompt and its two marks
T5_TOKENS = MAX_TOKENS  # the max_sequence_length that the card recommends
# T5 tokens of a training step and their shares; 256, the pipeline's default, costs nine times as much as 10.
T5_TOKEN_SHARES = {T5_TOKENS: 0.95, 64: 0.04, 256: 0.01}
# Factor of the autoencoder: `fine` has 16 x 16 latent positions, which maps of small regions need.
FACTORS = {"coarse": 4, "fine": 2}


def build_tokenizer() -> Any:
    """A CLIP byte-pair tokenizer: every word of the world is one token, others fall apart into letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    symbols = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(word for prompt in language.prompts() for word in prompt.split()):
        parts = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:  # what the earlier merges make of this word
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == pair:
                    parts[i : i + 2] = [parts[i] + parts[i + 1]]
                i += 1
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            symbols.append(parts[0])
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        lines = ["#version: 0.2", *map(" ".join, merges), ""]
        (Path(folder) / "merges.txt").write_text("\n".join(lines))
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    for prompt in language.prompts():
        one_each = len(tokenizer(prompt).input_ids) == len(prompt.split()) + 2
        assert one_each, f"{prompt!r} is not one token a word"
    return tokenizer


def build_vae(factor: int) -> Any:
    """An autoencoder of 32 px to 32 / factor latent positions on a side."""
    channels = (16, 32, 32) if factor == 4 else (16, 32)
    return stock(AutoencoderKL)(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        sample_size=draw.SIZE,
        **configuration("tiny_image")["vae"],
    )


def build_networks(tokenizer: Any, latent_size: int) -> nn.ModuleDict:
    """What flow matching trains: three text encoders and the transformer, by their names in the pipeline."""
    config = configuration("tiny_image")
    clip = text_sizes(tokenizer, "bos", "eos", "pad") | {"max_position_embeddings": MAX_TOKENS}
    networks: dict[str, Any] = {}
    for name in ("text_encoder", "text_encoder_2"):
        networks[name] = CLIPTextModelWithProjection(CLIPTextConfig(**config[name] | clip))
    t5 = T5Config(**config["text_encoder_3"] | text_sizes(tokenizer, "eos", "pad"))
    networks["text_encoder_3"] = T5EncoderModel(t5)
    sizes = {"sample_size": latent_size, "pos_embed_max_size": latent_size}
    networks["transformer"] = stock(SD3Transformer2DModel)(**config["transformer"] | sizes)
    return nn.ModuleDict(networks)


def start_from(networks: nn.ModuleDict, folder: Path) -> None:
    """Take the weights of a pipeline made by this script, of any variant."""
    pipe = stock(StableDiffusion3Pipeline).from_pretrained(folder)
    for name, part in networks.items():
        weights = getattr(pipe, name).state_dict()
        weights.pop("pos_embed.pos_embed", None)  # a table of sines, larger for a finer grid
        missing, _ = part.load_state_dict(weights, strict=False)
        assert missing in ([], ["pos_embed.pos_embed"]), missing


def build_pipeline(vae: Any, networks: nn.ModuleDict, tokenizer: Any) -> Any:
    """The stock pipeline around the parts; the third tokenizer differs from the others in its length only."""
    tokenizer_3 = copy.deepcopy(tokenizer)
    tokenizer_3.model_max_length = max(T5_TOKEN_SHARES)
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": copy.deepcopy(tokenizer), "tokenizer_3": tokenizer_3}
    pipeline, scheduler = stock(StableDiffusion3Pipeline), stock(FlowMatchEulerDiscreteScheduler)
    return pipeline(vae=vae, scheduler=scheduler(shift=1.0), **tokenizers, **networks)


def encode_texts(pipe: Any, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """CLIP and T5 embeddings [B, 10 + length, 96], and pooled ones [B, 96]."""
    context, _, pooled, _ = pipe.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=length
    )
    return context, pooled


@torch.no_grad()
def sample(
    pipe: Any, prompts: list[str], random: torch.Generator, steps: int, noise: float, length: int
) -> Tensor:
    """Images [B, 3, 32, 32] in [0, 1] without guidance, from `length` T5 tokens."""
    context, pooled = encode_texts(pipe, prompts, length)
    pipe.scheduler.set_timesteps(steps)
    config, vae = pipe.transformer.config, pipe.vae
    shape = (len(prompts), config.in_channels, config.sample_size, config.sample_size)
    x = integrate(
        lambda x, time: pipe.transformer(x, context, pooled, time, return_dict=False)[0],
        torch.randn(shape, generator=random),
        pipe.scheduler.sigmas.tolist(),
        noise,
        random,
    )
    images = vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
    return torch.clamp(images / 2 + 0.5, 0, 1)
