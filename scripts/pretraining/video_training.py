"""What the video policy learns from: pieces of clips for its autoencoder, latents drawn once for the flow.

Pixels that are not background weigh more in the autoencoder's loss, which otherwise stays at a grey picture
for long. In some rows of a flow step the first latent frame is clean and has no part in the loss.
"""

from __future__ import annotations

import argparse
import logging
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining import flow, video_policy
from pretraining.phases import Phase, cosine, train
from pretraining.state import State, generator
from pretraining.video_policy import (
    LATENT_FRAMES,
    LATENT_SHAPE,
    TOKEN_SHARES,
    TOKENS,
    clips_of,
    spoil,
)
from rlvis.data.world.draw import FRAMES, SIZE
from rlvis.data.world.language import prompts

log = logging.getLogger("pretraining")

VAE_LR = (4e-3, 2e-3)  # of its two rounds
THING_WEIGHT = 10.0  # of pixels off the background in the autoencoder's loss
KL_WEIGHT = 1e-3
PIECES_SHARE = 0.8  # of the autoencoder's steps see pieces of clips, a third of the work; the rest whole ones
PIECE_SIZE, PIECE_FRAMES = 24, 5
# Defects that the autoencoder's clips have, so that it can show what a spoiled policy draws, and their share.
DEFECTS_SHOWN: tuple[str, ...] = ("patch", "blotch", "flash", "static", "flicker")
DEFECT_SHARE = 0.3
DEFECT_WEIGHT = 2.5  # of latent positions with a defect in the flow loss; 8 draws defects everywhere
GIVEN_SHARE = 0.3  # clips whose first frame is given


def piece(clips: Tensor, random: torch.Generator) -> Tensor:
    """The same random window [B, 3, 5, 24, 24] of all clips [B, 3, 9, 32, 32]."""
    sizes = ((FRAMES, PIECE_FRAMES), (SIZE, PIECE_SIZE), (SIZE, PIECE_SIZE))
    m, y, x = (int(torch.randint(whole - part + 1, (), generator=random)) for whole, part in sizes)
    return clips[:, :, m : m + PIECE_FRAMES, y : y + PIECE_SIZE, x : x + PIECE_SIZE]


def vae_schedule(step: int, rounds: list[int]) -> tuple[int, float]:
    """The round that a step is in, and how far it is in that round, in [0, 1)."""
    second = step >= rounds[0]
    return int(second), (step - rounds[0] * second) / rounds[second]


def train_vae(vae: Any, state: State, args: argparse.Namespace) -> None:
    """Absolute plus squared pixel error and a light KL, in two rounds of Adam with a cosine down to 2 %.

    The first round weighs the pixels of things, the second their surroundings too: outlines and holes.
    """
    optimizer = torch.optim.Adam(vae.parameters(), betas=(0.9, 0.99))
    names = prompts(clips=True)

    def loss(step: int) -> Tensor:
        second, progress = vae_schedule(step, args.steps_vae)
        if second and progress == 0:
            optimizer.state.clear()  # the second round begins anew
        random = generator(args.seed, 1, step)
        picks = torch.randint(len(names), (args.batch_vae,), generator=random).tolist()
        kind = DEFECTS_SHOWN[step % len(DEFECTS_SHOWN)]
        clips, _ = spoil(clips_of([names[i] for i in picks], random), kind, DEFECT_SHARE, random)
        if progress < PIECES_SHARE:
            clips = piece(clips, random)
        return vae_loss(vae, clips, random, bool(second), KL_WEIGHT * min(1.0, step / 400))

    def rate(step: int) -> float:
        second, progress = vae_schedule(step, args.steps_vae)
        warm: float = min(1.0, progress * args.steps_vae[second] / 50 + 0.02)
        return VAE_LR[second] * warm * cosine(progress, 1, floor=0.02)

    limits = {"steps": sum(args.steps_vae), "minutes": args.minutes_vae, "once": True}
    train(Phase(name="vae", models={"vae": vae}, optimizer=optimizer, loss=loss, rate=rate, **limits), state)


def vae_loss(vae: Any, clips: Tensor, random: torch.Generator, around: bool, kl_weight: float) -> Tensor:
    """Weighted error of the reconstruction of clips [B, 3, M, Y, X] in [-1, 1], plus the KL a latent value.

    around: whether the two pixels around a thing weigh as much as the thing.
    """
    posterior = vae.encode(clips).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=random)
    error: Tensor = (vae.decode(posterior.mean + posterior.std * noise).sample - clips).abs()
    thing = (clips.abs().amax(dim=1, keepdim=True) > 0.02).float()  # the background is 0
    if around:
        thing = F.max_pool3d(thing, (1, 5, 5), stride=1, padding=(0, 2, 2))
    weight = 1 + (THING_WEIGHT - 1) * thing
    kl: Tensor = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return (weight * (error + error.square())).mean() / weight.mean() + kl_weight * kl


@torch.no_grad()
def measure_latents(vae: Any, seed: int) -> None:
    """Write mean and deviation of every latent channel into the config, where the pipelines look."""
    names = prompts(clips=True)
    latents = video_policy.encode(vae, [clips_of(names, generator(seed, 2, i)) for i in range(4)])
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(value, 5) for value in mean.tolist()],
        latents_std=[round(value, 5) for value in std.tolist()],
    )
    clips = clips_of(names[:16], generator(seed, 2, 4))
    first = vae.encode(clips[:, :, :1]).latent_dist.mean
    whole = vae.encode(clips).latent_dist.mean[:, :, :1]
    assert torch.allclose(first, whole, atol=1e-4), "the first latent frame is not that of the first frame"


def draw_bank(vae: Any, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Normalised latents [K * 249, 8, 3, 8, 8] of K drawings of every prompt, which go round, and which of
    their positions have a defect, bool [K * 249, 1, 3, 8, 8].
    """
    names, (mean, std) = prompts(clips=True), video_policy.statistics(vae)
    parts, marks = [], []
    for i in range(args.bank_per_prompt):
        random = generator(args.seed, 3, i)
        clips = clips_of(names, random)
        marked = torch.zeros(len(names), 1, *LATENT_SHAPE[1:], dtype=torch.bool)
        if args.defect:
            clips, where = spoil(clips, args.defect, args.share, random)
            marked = video_policy.latent_marks(where)
        parts.append((video_policy.encode(vae, [clips]) - mean) / std)
        marks.append(marked)
    bank = torch.cat(parts)
    log.info("%d latents, mean %.4f, std %.4f", len(bank), bank.mean(), bank.std())
    return bank, torch.cat(marks)


class FlowLoss:
    """The loss of a flow step; positions with a defect weigh more, or it is learned last."""

    def __init__(self, live: Any, args: argparse.Namespace) -> None:
        self.live, self.args, self.names = live, args, prompts(clips=True)
        self.bank = cache(lambda: draw_bank(live.vae, args))

    def __call__(self, step: int) -> Tensor:
        """Weighted mean squared error of the velocity, without first frames that are given."""
        args, size, (bank, marks) = self.args, self.args.batch_flow, self.bank()
        random = generator(args.seed, 4, step)
        pick = torch.randint(len(bank), (size,), generator=random)
        empty = (torch.rand(size, generator=random) < flow.EMPTY_SHARE).tolist()
        given = torch.rand(size, generator=random) < GIVEN_SHARE
        length = flow.draw_length(TOKEN_SHARES, random)
        sigma = torch.randn(size, generator=random).sigmoid()
        clean = bank[pick]
        noise = torch.randn(clean.shape, generator=random)
        names = [self.names[i] for i in (pick % len(self.names)).tolist()]
        texts = ["" if none else name for none, name in zip(empty, names, strict=True)]
        context = F.pad(video_policy.encode_texts(self.live, texts, TOKENS), (0, 0, 0, length - TOKENS))
        level = sigma[:, None].repeat(1, LATENT_FRAMES)
        level[:, 0] *= ~given
        level = level[:, None, :, None, None]
        noisy = (1 - level) * clean + level * noise
        times = video_policy.token_times(1000 * sigma, given)
        velocity = self.live.transformer(noisy, times, context, return_dict=False)[0]
        later = args.weight_later is not None and step >= args.weight_later[1]
        counted = torch.where(marks[pick], args.weight_later[0] if later else DEFECT_WEIGHT, 1.0)
        counted[:, :, 0] *= ~given[:, None, None, None]
        return flow.weighted_error(velocity, noise - clean, counted)
