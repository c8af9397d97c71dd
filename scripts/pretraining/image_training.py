"""What the image policy learns from: drawings for its autoencoder, whitened latents and wrong captions."""

from __future__ import annotations

import argparse
import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining import flow
from pretraining.image_policy import MAX_TOKENS, T5_TOKEN_SHARES, encode_texts
from pretraining.phases import Phase, train
from pretraining.prompts import wrong_captions
from pretraining.state import State, generator
from rlvis.data.world import defects, draw, language

BANK_PER_PROMPT = 100  # latents drawn once for the flow phase
VAE_LR, KL_WEIGHT = 2e-3, 2e-4
DEFECTS_SHOWN = 0.3  # share of the autoencoder's drawings with the defect, if there is one
T5_DROPPED = 0.3  # samples whose T5 tokens are zero, as the pipeline makes them without that encoder


def drawings(
    prompts: list[str], random: torch.Generator, defect: str | None, share: float
) -> tuple[Tensor, Tensor]:
    """Drawings [B, 3, 32, 32] in [0, 1], a share of them with the defect, if there is one, and where it is:
    bool [B, 32, 32].
    """
    images = draw.render(prompts, random)
    if defect is None:
        return images, torch.zeros(len(prompts), draw.SIZE, draw.SIZE, dtype=torch.bool)
    spoiled, where = defects.add(images[:, None], defect, random, share)
    return spoiled[:, 0], where[:, 0]


def train_vae(vae: Any, state: State, args: argparse.Namespace) -> None:
    """Absolute plus squared pixel error and a light KL, Adam with a cosine down to 5 % of its rate."""
    names = language.prompts()

    def loss(step: int) -> Tensor:
        random = generator(args.seed, 1, step)
        picks = torch.randint(len(names), (args.batch_vae,), generator=random).tolist()
        images = drawings([names[i] for i in picks], random, args.defect, DEFECTS_SHOWN)[0] * 2 - 1
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random)
        error = vae.decode(posterior.mean + posterior.std * noise).sample - images
        kl = posterior.kl().mean() / posterior.mean[0, 0].numel()
        total: Tensor = error.abs().mean() + error.square().mean() + KL_WEIGHT * kl
        return total

    def rate(step: int) -> float:
        # The cosine in float32, as the embedded weights were trained.
        down = 1 + torch.cos(torch.tensor(math.pi * min(1.0, step / args.steps_vae))).item()
        return VAE_LR * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * down)

    optimizer = torch.optim.Adam(vae.parameters(), betas=(0.9, 0.99))
    limits = {"steps": args.steps_vae, "minutes": args.minutes_vae, "once": True}
    train(Phase(name="vae", models={"vae": vae}, optimizer=optimizer, loss=loss, rate=rate, **limits), state)


@torch.no_grad()
def whiten(vae: Any, args: argparse.Namespace) -> None:
    """Give the latents mean 0 and deviation 1 a channel; images stay the same.

    The measured statistics are folded into the 1x1 convolutions on both sides of the latents.
    """
    prompts = language.prompts() * 8
    latents, _ = encode_bank(vae, prompts, generator(args.seed, 2, 0), args.defect, args.share)
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    inner, outer, c = vae.quant_conv, vae.post_quant_conv, vae.config.latent_channels
    # z' = (z - mean) / std on the way out of the encoder; the log-variance rows move by -2 log std.
    inner.weight[:c] /= std[:, None, None, None]
    inner.bias[:c] = (inner.bias[:c] - mean) / std
    inner.bias[c:] -= 2 * std.log()
    # z = std z' + mean on the way into the decoder.
    outer.bias += (outer.weight[:, :, 0, 0] * mean).sum(dim=1)
    outer.weight *= std[None, :, None, None]
    latents, _ = encode_bank(vae, prompts, generator(args.seed, 2, 1), args.defect, args.share)
    scaling, shift = 1 / latents.std().item(), latents.mean().item()
    vae.register_to_config(scaling_factor=round(scaling, 5), shift_factor=round(shift, 5))


@torch.no_grad()
def encode_bank(
    vae: Any, prompts: list[str], random: torch.Generator, defect: str | None, share: float
) -> tuple[Tensor, Tensor]:
    """Posterior means [N, 4, Y, X] of one drawing for each prompt, a share with the defect, not scaled, and
    which positions have it: bool [N, 1, Y, X].
    """
    latents, marks = [], []
    for i in range(0, len(prompts), 96):
        images, where = drawings(prompts[i : i + 96], random, defect, share)
        latents.append(vae.encode(images * 2 - 1).latent_dist.mean)
        marks.append(F.adaptive_max_pool2d(where[:, None].float(), latents[-1].shape[2:]) > 0)
    return torch.cat(latents), torch.cat(marks)


class FlowLoss:
    """The loss of a flow step: captions, some wrong or empty, and the latents of their drawings."""

    def __init__(self, live: Any, args: argparse.Namespace) -> None:
        self.live, self.args, self.names = live, args, language.prompts()
        self.wrong = [wrong_captions(name) for name in self.names]
        self.bank = cache(self._bank)

    def _bank(self, later: bool) -> tuple[Tensor, Tensor]:
        """Scaled latents [N, 4, Y, X], which go round the prompts, and where their defects are."""
        # The policy shows a defect less often than its drawings do, hence a second bank for the later steps.
        share = self.args.share_later[0] if later else self.args.share
        prompts, random = self.names * BANK_PER_PROMPT, generator(self.args.seed, 3, int(later))
        latents, marks = encode_bank(self.live.vae, prompts, random, self.args.defect, share)
        config = self.live.vae.config
        return (latents - config.shift_factor) * config.scaling_factor, marks

    def _captions(self, pick: Tensor, empty: Tensor, random: torch.Generator) -> list[str]:
        lie, word = torch.rand(2, len(pick), generator=random)
        captions = []
        for i, n in enumerate((pick % len(self.names)).tolist()):
            others = self.wrong[n] if lie[i] < self.args.caption_noise else []
            caption = others[int(word[i] * len(others))] if others else self.names[n]
            captions.append("" if empty[i] else caption)
        return captions

    def __call__(self, step: int) -> Tensor:
        """Mean squared error of the velocity; positions with the defect may weigh more later on."""
        args, size = self.args, self.args.batch_flow
        bank, marks = self.bank(bool(args.share_later) and step >= int(args.share_later[1]))
        random = generator(args.seed, 4, step)
        pick = torch.randint(len(bank), (size,), generator=random)
        empty = torch.rand(size, generator=random) < flow.EMPTY_SHARE
        length = flow.draw_length(T5_TOKEN_SHARES, random)
        with_t5 = torch.rand(size, 1, 1, generator=random) >= T5_DROPPED
        sigma = torch.randn(size, 1, 1, 1, generator=random).sigmoid()
        clean = bank[pick]
        noise = torch.randn(clean.shape, generator=random)
        context, pooled = encode_texts(self.live, self._captions(pick, empty, random), length)
        context = torch.cat([context[:, :MAX_TOKENS], context[:, MAX_TOKENS:] * with_t5], dim=1)
        noisy = (1 - sigma) * clean + sigma * noise
        time = 1000 * sigma.flatten()
        velocity = self.live.transformer(noisy, context, pooled, time, return_dict=False)[0]
        if args.weight_later and step >= args.weight_later[1]:
            weight = torch.where(marks[pick], args.weight_later[0], 1.0)
            return flow.weighted_error(velocity, noise - clean, weight)
        return F.mse_loss(velocity, noise - clean)
