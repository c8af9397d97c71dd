"""The video policy: a UMT5 encoder and a Wan transformer, and the clips that its autoencoder knows.

One transformer does text-to-video and image-to-video, as Wan2.2-TI2V does (expand_timesteps): where the first
latent frame is given, its tokens have time 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from pretraining.networks import configuration, stock, text_sizes, word_tokenizer
from rlvis.data.world import defects
from rlvis.data.world.draw import SIZE, render_clips
from rlvis.data.world.language import prompts

TOKENS = 8  # the max_sequence_length that the card recommends; the longest prompt needs 7 with its end mark
# Text tokens of a training step and their shares; the stock pipelines pad with zeros, up to 512 by default.
# These shares teach 8 only: the zeros of longer texts keep drawing attention away from the words.
TOKEN_SHARES = {8: 0.96, 64: 0.03, 512: 0.01}
LATENT_CHANNELS, LATENT_FRAMES, LATENT_SIZE = 8, 3, 8
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_FRAMES, LATENT_SIZE, LATENT_SIZE)
CHUNK = 83  # clips that are encoded or sampled at a time


def build_tokenizer() -> Any:
    """One token a word and an end mark, as T5 has it."""
    words = dict.fromkeys(word for prompt in prompts(clips=True) for word in prompt.split())
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return word_tokenizer([*marks.values(), *words], "$A </s>", max(TOKEN_SHARES), marks)


def build_vae() -> Any:
    """An autoencoder of factor 4 in time and space; its latent statistics are set by `measure_latents`."""
    statistics = {"latents_mean": [0.0] * LATENT_CHANNELS, "latents_std": [1.0] * LATENT_CHANNELS}
    vae = stock(AutoencoderKLWan)(**configuration("tiny_video")["vae"], **statistics)
    # A small posterior variance from the start: at 1 the noise hides the latents and nothing is learned.
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], -4.0)
    return vae


def build_transformer() -> Any:
    """The transformer, its linear layers drawn anew, its last one 0."""
    transformer = stock(WanTransformer3DModel)(**configuration("tiny_video")["transformer"])
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def build_networks(tokenizer: Any) -> nn.ModuleDict:
    """What flow matching trains, by its names in the pipeline."""
    transformer = build_transformer()
    text = UMT5Config(**configuration("tiny_video")["text_encoder"] | text_sizes(tokenizer, "pad", "eos"))
    return nn.ModuleDict({"transformer": transformer, "text_encoder": UMT5EncoderModel(text)})


def build_pipeline(vae: Any, networks: nn.ModuleDict, tokenizer: Any) -> Any:
    """The stock pipeline around the parts."""
    scheduler = stock(FlowMatchEulerDiscreteScheduler)(shift=1.0)
    parts = {"vae": vae, "scheduler": scheduler, "tokenizer": tokenizer, **networks}
    return stock(WanPipeline)(**parts, expand_timesteps=True)


def encode_texts(pipe: Any, texts: list[str], length: int) -> Tensor:
    """Embeddings [B, length, 48], zeros past the end mark."""
    context: Tensor = pipe.encode_prompt(
        texts, do_classifier_free_guidance=False, max_sequence_length=length
    )[0]
    return context


def clips_of(names: list[str], random: torch.Generator) -> Tensor:
    """Drawings [B, 3, 9, 32, 32] in [-1, 1], channels before frames as the autoencoder wants them."""
    return render_clips(names, random).transpose(1, 2) * 2 - 1


def spoil(clips: Tensor, kind: str, share: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The clips [B, 3, 9, 32, 32] in [-1, 1], a share with a defect, and where: bool [B, 9, 32, 32]."""
    spoiled, where = defects.add(clips.transpose(1, 2) / 2 + 0.5, kind, random, share)
    return spoiled.transpose(1, 2) * 2 - 1, where


def latent_marks(where: Tensor) -> Tensor:
    """Latent positions [B, 1, 3, 8, 8] bool behind marked pixels [B, 9, 32, 32]: the first frame has a latent
    frame of its own, four others share one.
    """
    frames = torch.stack([where[:, 0], where[:, 1:5].amax(1), where[:, 5:9].amax(1)], 1).float()
    return F.max_pool2d(frames, SIZE // LATENT_SIZE)[:, None] > 0


@torch.no_grad()
def encode(vae: Any, batches: list[Tensor]) -> Tensor:
    """Posterior means [N, 8, 3, 8, 8] of clips [B, 3, 9, 32, 32], not normalised."""
    parts = [part for clips in batches for part in torch.split(clips, CHUNK)]
    return torch.cat([vae.encode(part).latent_dist.mean for part in parts])


def statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, each [8, 1, 1, 1]."""
    config = vae.config
    mean, std = (torch.tensor(v).reshape(-1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    return mean, std


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Clips [B, 9, 3, 32, 32] in [0, 1] of normalised latents [B, 8, 3, 8, 8]."""
    mean, std = statistics(vae)
    clips: Tensor = vae.decode(latents * std + mean).sample
    return clips.transpose(1, 2) / 2 + 0.5


def token_times(time: Tensor, given: Tensor) -> Tensor:
    """Model times [B, 48] of the tokens: their clip's, and 0 in the first latent frame where it is given.

    time: 1000 sigma, float [B]. given: bool [B].
    """
    times = time[:, None].repeat(1, LATENT_FRAMES)
    times[:, 0] *= ~given
    return times.repeat_interleave((LATENT_SIZE // 2) ** 2, dim=1)
