"""How good the video policy is: samples read by the world's checker, and what its autoencoder keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from torch import Tensor

from pretraining.flow import integrate
from pretraining.networks import stock
from pretraining.prompts import accuracies
from pretraining.state import generator
from pretraining.video_policy import (
    CHUNK,
    LATENT_SHAPE,
    TOKENS,
    clips_of,
    decode,
    encode,
    encode_texts,
    spoil,
    statistics,
    token_times,
)
from pretraining.video_training import DEFECTS_SHOWN
from rlvis.data.world import defects, motion
from rlvis.data.world.checker import Judgement
from rlvis.data.world.draw import FRAMES, SIZE, render_clips
from rlvis.data.world.language import CLIP_KINDS, parse, prompts


@torch.no_grad()
def sample(
    pipe: Any,
    names: list[str],
    random: torch.Generator,
    steps: int,
    noise: float = 0.0,
    length: int = TOKENS,
    first: Tensor | None = None,
) -> Tensor:
    """Clips [B, 9, 3, 32, 32] in [0, 1] without guidance.

    first: normalised latents [B, 8, 1, 8, 8] of given first frames.
    """
    context = encode_texts(pipe, names, length)
    pipe.scheduler.set_timesteps(steps)
    given = torch.full((len(names),), first is not None)

    def pin(x: Tensor) -> Tensor:
        return x if first is None else torch.cat([first, x[:, :, 1:]], dim=2)

    def velocity(x: Tensor, time: Tensor) -> Any:
        return pipe.transformer(x, token_times(time, given), context, return_dict=False)[0]

    start = torch.randn((len(names), *LATENT_SHAPE), generator=random)
    return decode(pipe.vae, integrate(velocity, start, pipe.scheduler.sigmas.tolist(), noise, random, pin))


def measure(
    pipe: Any,
    seed: int,
    steps: int,
    noise: float = 0.0,
    per_prompt: int = 8,
    length: int = TOKENS,
    given: bool = False,
) -> dict[str, float]:
    """Hard accuracy by kind of prompt and over all, soft score, single attributes and severity of defects.

    given: image-to-video from first frames of drawings; "first_psnr" says in decibels how well they are kept.
    """
    names = [name for name in prompts(clips=True) for _ in range(per_prompt)]
    random = generator(seed, 5, steps)
    mean, std = statistics(pipe.vae)
    judged, errors, severity = [], [], []
    for i in range(0, len(names), CHUNK):
        some = names[i : i + CHUNK]
        first = frame = None
        if given:
            drawn = clips_of(some, random)[:, :, :1]
            first, frame = (encode(pipe.vae, [drawn]) - mean) / std, drawn[:, :, 0] / 2 + 0.5
        clips = sample(pipe, some, random, steps, noise, length, first)
        if frame is not None:
            errors.append((clips[:, 0] - frame).square().mean(dim=(1, 2, 3)))
        judged.append(motion.judge_clips(clips, some, frame))
        severity.append(defects.severity(clips))
    means = table(names, judged)
    means["severity"] = round(torch.cat(severity).mean().item(), 5)
    if given:
        means["first_psnr"] = round(-10 * torch.cat(errors).mean().log10().item(), 2)
    return means


def table(names: list[str], judged: list[Judgement]) -> dict[str, float]:
    """Means of the verdicts over each kind of prompt and over all; attributes for kind direction."""
    hard, soft = (torch.cat([getattr(j, field) for j in judged]) for field in ("hard", "soft"))
    means = accuracies(hard, soft, names, CLIP_KINDS)
    means["soft"] = means.pop("score")
    straight = torch.tensor([parse(name).kind == "direction" for name in names])
    for key in judged[0].right:
        mean = torch.cat([j.right[key] for j in judged])[straight].nanmean().item()
        if not math.isnan(mean):
            means[f"direction_{key}"] = round(mean, 4)
    return means


@torch.no_grad()
def measure_vae(vae: Any, seed: int) -> dict[str, float]:
    """How often the checker reads the reconstruction of a drawing right, and signal-to-noise ratios."""
    names = prompts(clips=True) * 4
    clips = clips_of(names, generator(seed, 6, 0))
    copies = torch.cat([vae.decode(vae.encode(c).latent_dist.mean).sample for c in torch.split(clips, CHUNK)])
    psnr = -10 * ((copies - clips).square().mean() / 4).log10().item()
    means = table(names, [motion.judge_clips(copies.transpose(1, 2) / 2 + 0.5, names)])
    means["psnr"] = round(psnr, 2)
    # How much of a defect's severity the reconstruction keeps.
    for i, kind in enumerate(DEFECTS_SHOWN):
        marked, _ = spoil(clips[:CHUNK], kind, 1.0, generator(seed, 6, 1 + i))
        copied = vae.decode(vae.encode(marked).latent_dist.mean).sample
        kept, there = (defects.severity(x.transpose(1, 2) / 2 + 0.5).mean() for x in (copied, marked))
        means[f"{kind}_kept"] = round((kept / there).item(), 3)
    return means


def check(folder: Path) -> None:
    """Open the folder with the stock pipelines and let both draw a clip; AssertionError when one cannot."""
    settings: dict[str, Any] = {"num_frames": FRAMES, "height": SIZE, "width": SIZE, "output_type": "pt"}
    settings |= {"num_inference_steps": 8, "guidance_scale": 1.0, "max_sequence_length": TOKENS}
    pipe = stock(WanPipeline).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.expand_timesteps
    assert pipe.scheduler.config.shift == 1.0
    prompt = "a red circle moving left"
    frames = pipe(prompt, generator=generator(0), **settings).frames
    assert frames.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert frames.std() > 0.01, "text-to-video draws nothing"
    picture = render_clips([prompt], generator(1))[:, 0]
    other = stock(WanImageToVideoPipeline)(**pipe.components, expand_timesteps=True)
    other.set_progress_bar_config(disable=True)
    frames = other(picture, prompt, generator=generator(0), **settings).frames
    assert frames.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert (frames[:, 0] - picture).abs().mean() < 0.02, "image-to-video does not keep its first frame"
