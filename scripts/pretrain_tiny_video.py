"""Make the embedded video policy: a WanPipeline of 1.8M parameters that draws clips of the shapes world.

Two phases on a CPU: a small causal AutoencoderKLWan (9 frames of 32 px to 3 latent frames of 8x8), then
rectified flow matching (Liu et al. 2022, arXiv:2209.03003) of a WanTransformer3DModel together with its text
encoder on latents drawn once. Unusual: one transformer does text-to-video and image-to-video, as Wan2.2-TI2V
does (expand_timesteps): in some training rows the first latent frame is clean, its tokens have time 0 and it
has no part in the loss. Pixels that are not background weigh more in the autoencoder's loss, which otherwise
stays at a grey picture for long. Every step draws from (seed, phase, step) alone.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_video.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_video.py --steps-flow 12000 --resume
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_video.py --defect blotch --share 0.7 \
        --base rlvis/assets/tiny_video --out rlvis/assets/tiny_video_defect
"""

import argparse
import copy
import itertools
import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from pretraining import Clock, State, generator, make_readable, megabytes, update_average
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from rlvis.data.world import defects, motion
from rlvis.data.world.draw import FRAMES, SIZE, render_clips
from rlvis.data.world.language import CLIP_KINDS, parse, prompts

log = logging.getLogger("pretrain_tiny_video")

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 8  # the max_sequence_length that the card recommends; the longest prompt needs 7 with its end mark
# Text tokens of a training step and their shares; the stock pipelines pad with zeros, up to 512 by default.
# These shares teach 8 only: the zeros of longer texts keep drawing attention away from the words.
TOKEN_SHARES = {8: 0.96, 64: 0.03, 512: 0.01}
TEXT_WIDTH = 48
WIDTH, LAYERS, HEADS, HIDDEN = 128, 4, 4, 384
LATENT_CHANNELS, LATENT_FRAMES, LATENT_SIZE = 8, 3, 8
VAE_LR = (4e-3, 2e-3)  # of its two rounds
THING_WEIGHT = 10.0  # of pixels off the background in the autoencoder's loss
KL_WEIGHT = 1e-3
PIECES_SHARE = (
    0.8  # of the autoencoder's steps see pieces of clips, a third of the work; the rest see whole ones
)
PIECE_SIZE, PIECE_FRAMES = 24, 5
# Defects that the autoencoder's clips have, so that it can show what a spoiled policy draws, and their share.
DEFECTS_SEEN: tuple[str, ...] = ("patch", "blotch", "flash", "static", "flicker")
DEFECT_SHARE = 0.3
DEFECT_WEIGHT = 2.5  # of latent positions with a defect in the flow loss; 8 draws defects everywhere
LEAST_DEFECT = 0.005  # of a clip's area, from which on it counts as spoiled
CHUNK = 83  # clips that are encoded or sampled at a time
EMPTY_SHARE = 0.1  # prompts replaced by "" for classifier-free guidance
GIVEN_SHARE = 0.3  # clips whose first frame is given
EMA_DECAY = 0.999
SDE_NOISE = 0.7


# ----------------------------------------------------------------------------------------------------- models


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word and an end mark, as T5 has it."""
    words = dict.fromkeys(word for prompt in prompts(clips=True) for word in prompt.split())
    vocabulary = {name: i for i, name in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max(TOKEN_SHARES),
    )


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return UMT5EncoderModel(config)


def build_vae() -> AutoencoderKLWan:
    """An autoencoder of factor 4 in time and space; its latent statistics are set by `measure_latents`."""
    vae = AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,  # shortcuts around the changes of size, without which training stays at grey
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    )
    # A small posterior variance from the start: at 1 the noise hides the latents and nothing is learned.
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], -4.0)
    return vae


def build_transformer() -> WanTransformer3DModel:
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=HIDDEN,
        num_layers=LAYERS,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


class Policy(nn.Module):
    """What flow matching trains: transformer and text encoder (the live weights or their average)."""

    def __init__(self, transformer: WanTransformer3DModel, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def encode(self, ids: Tensor, mask: Tensor, length: int) -> Tensor:
        """Token ids and their mask [B, L] to embeddings [B, length, 48], zeros past the end mark."""
        states = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        return F.pad(states, (0, 0, 0, length - ids.shape[1]))


def build_pipeline(vae: AutoencoderKLWan, policy: Policy, tokenizer: PreTrainedTokenizerFast) -> WanPipeline:
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=policy.text_encoder,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        transformer=policy.transformer,
        expand_timesteps=True,
    )


# ------------------------------------------------------------------------------------------------ autoencoder


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


def piece(clips: Tensor, random: torch.Generator) -> Tensor:
    """The same random window [B, 3, 5, 24, 24] of all clips [B, 3, 9, 32, 32]."""
    m, y, x = (
        int(torch.randint(whole - part + 1, (), generator=random))
        for whole, part in ((FRAMES, PIECE_FRAMES), (SIZE, PIECE_SIZE), (SIZE, PIECE_SIZE))
    )
    return clips[:, :, m : m + PIECE_FRAMES, y : y + PIECE_SIZE, x : x + PIECE_SIZE]


def vae_schedule(step: int, rounds: list[int]) -> tuple[int, float]:
    """The round that a step is in, and how far it is in that round, in [0, 1)."""
    second = step >= rounds[0]
    return int(second), (step - rounds[0] * second) / rounds[second]


def train_vae(vae: AutoencoderKLWan, state: State, args: argparse.Namespace) -> None:
    """Absolute plus squared pixel error and a light KL, in two rounds of Adam with a cosine down to 2 %.

    The first round weighs the pixels of things, the second their surroundings too: outlines and holes.
    """
    step = state.values.get("vae_step", 0)
    optimizer = torch.optim.Adam(vae.parameters(), betas=(0.9, 0.99))
    if state.values.get("vae_optimizer"):
        optimizer.load_state_dict(state.values["vae_optimizer"])
    clock = Clock("vae", step, sum(args.steps_vae), args.minutes_vae)
    names = prompts(clips=True)
    vae.train()

    def keep() -> None:
        state.save(vae=vae.state_dict(), vae_optimizer=optimizer.state_dict(), vae_step=step)

    while not state.values.get("vae_done") and clock.go_on(step):
        second, progress = vae_schedule(step, args.steps_vae)
        if second and progress == 0:
            optimizer = torch.optim.Adam(vae.parameters(), betas=(0.9, 0.99))
        random = generator(args.seed, 1, step)
        picks = torch.randint(len(names), (args.batch_vae,), generator=random).tolist()
        kind = DEFECTS_SEEN[step % len(DEFECTS_SEEN)]
        clips, _ = spoil(clips_of([names[i] for i in picks], random), kind, DEFECT_SHARE, random)
        if progress < PIECES_SHARE:
            clips = piece(clips, random)
        loss = vae_loss(vae, clips, random, around=bool(second), kl_weight=KL_WEIGHT * min(1.0, step / 400))
        warm = min(1.0, progress * args.steps_vae[second] / 50 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = VAE_LR[second] * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        clock.tick(step, loss.item(), keep)
    if not state.values.get("vae_done"):
        state.save(vae=vae.state_dict(), vae_optimizer=None, vae_step=step, vae_done=True)
    vae.eval()


def vae_loss(
    vae: AutoencoderKLWan, clips: Tensor, random: torch.Generator, around: bool, kl_weight: float
) -> Tensor:
    """Weighted error of the reconstruction of clips [B, 3, M, Y, X] in [-1, 1], plus the KL a latent value.

    around: whether the two pixels around a thing weigh as much as the thing.
    """
    posterior = vae.encode(clips).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=random)
    error = (vae.decode(posterior.mean + posterior.std * noise).sample - clips).abs()
    thing = (clips.abs().amax(dim=1, keepdim=True) > 0.02).float()  # the background is 0
    if around:
        thing = F.max_pool3d(thing, (1, 5, 5), stride=1, padding=(0, 2, 2))
    weight = 1 + (THING_WEIGHT - 1) * thing
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return (weight * (error + error.square())).mean() / weight.mean() + kl_weight * kl


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, seed: int) -> None:
    """Write mean and deviation of every latent channel into the config, where the pipelines look."""
    latents = encode(vae, [clips_of(prompts(clips=True), generator(seed, 2, i)) for i in range(4)])
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(value, 5) for value in mean.tolist()],
        latents_std=[round(value, 5) for value in std.tolist()],
    )
    clips = clips_of(prompts(clips=True)[:16], generator(seed, 2, 4))
    first = vae.encode(clips[:, :, :1]).latent_dist.mean
    whole = vae.encode(clips).latent_dist.mean[:, :, :1]
    assert torch.allclose(first, whole, atol=1e-4), "the first latent frame is not that of the first frame"


@torch.no_grad()
def encode(vae: AutoencoderKLWan, batches: list[Tensor]) -> Tensor:
    """Posterior means [N, 8, 3, 8, 8] of clips [B, 3, 9, 32, 32], not normalised."""
    parts = [part for clips in batches for part in clips.split(CHUNK)]
    return torch.cat([vae.encode(part).latent_dist.mean for part in parts])


def statistics(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, each [8, 1, 1, 1]."""
    mean, std = (
        torch.tensor(vae.config[key]).reshape(-1, 1, 1, 1) for key in ("latents_mean", "latents_std")
    )
    return mean, std


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Clips [B, 9, 3, 32, 32] in [0, 1] of normalised latents [B, 8, 3, 8, 8]."""
    mean, std = statistics(vae)
    return vae.decode(latents * std + mean).sample.transpose(1, 2) / 2 + 0.5


# ----------------------------------------------------------------------------------------------------- policy


def draw_bank(vae: AutoencoderKLWan, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Normalised latents [K * 249, 8, 3, 8, 8] of K drawings of every prompt, which go round, and which of
    their positions have a defect, bool [K * 249, 1, 3, 8, 8].
    """
    names, mean_std, parts, marks = prompts(clips=True), statistics(vae), [], []
    for i in range(args.bank_per_prompt):
        random = generator(args.seed, 3, i)
        clips = clips_of(names, random)
        marked = torch.zeros(len(names), 1, LATENT_FRAMES, LATENT_SIZE, LATENT_SIZE, dtype=torch.bool)
        if args.defect:
            clips, where = spoil(clips, args.defect, args.share, random)
            marked = latent_marks(where)
        parts.append((encode(vae, [clips]) - mean_std[0]) / mean_std[1])
        marks.append(marked)
    return torch.cat(parts), torch.cat(marks)


def token_times(sigma: Tensor, given: Tensor) -> Tensor:
    """Model times [B, 48] of the tokens: 1000 sigma, and 0 in the first latent frame where it is given.

    sigma: float [B]. given: bool [B].
    """
    times = 1000 * sigma[:, None].repeat(1, LATENT_FRAMES)
    times[:, 0] *= ~given
    return times.repeat_interleave((LATENT_SIZE // 2) ** 2, dim=1)


def train_flow(
    pipe: WanPipeline, live: Policy, average: Policy, state: State, args: argparse.Namespace
) -> None:
    """Rectified flow: x_s = (1 - s) x + s noise, the transformer predicts noise - x.

    s is logit-normal (Esser et al. 2024, arXiv:2403.03206, section 3.1).
    """
    names = prompts(clips=True)
    step = state.values.get("flow_step", 0)
    clock = Clock("flow", step, args.steps_flow, args.minutes_flow)
    if not clock.go_on(step):
        return
    bank, marks = draw_bank(pipe.vae, args)
    log.info("%d latents, mean %.4f, std %.4f", len(bank), bank.mean(), bank.std())
    texts = pipe.tokenizer([*names, ""], padding="max_length", max_length=TOKENS, return_tensors="pt")
    shares = torch.tensor(list(TOKEN_SHARES.values()))
    optimizer = torch.optim.AdamW(live.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    if state.values.get("flow_optimizer"):
        optimizer.load_state_dict(state.values["flow_optimizer"])

    def keep() -> None:
        optimizer_state = optimizer.state_dict()
        weights = {"flow": live.state_dict(), "average": average.state_dict()}
        state.save(**weights, flow_optimizer=optimizer_state, flow_step=step)

    while clock.go_on(step):
        random = generator(args.seed, 4, step)
        pick = torch.randint(len(bank), (args.batch_flow,), generator=random)
        empty = torch.rand(args.batch_flow, generator=random) < EMPTY_SHARE
        given = torch.rand(args.batch_flow, generator=random) < GIVEN_SHARE
        length = list(TOKEN_SHARES)[int(torch.multinomial(shares, 1, generator=random))]
        sigma = torch.randn(args.batch_flow, generator=random).sigmoid()
        clean = bank[pick]
        noise = torch.randn(clean.shape, generator=random)
        which = torch.where(empty, len(names), pick % len(names))
        context = live.encode(texts.input_ids[which], texts.attention_mask[which], length)
        level = sigma[:, None].repeat(1, LATENT_FRAMES)
        level[:, 0] *= ~given
        level = level[:, None, :, None, None]
        noisy = (1 - level) * clean + level * noise
        velocity = live.transformer(noisy, token_times(sigma, given), context, return_dict=False)[0]
        # A defect's positions weigh more, or it is learned last.
        later = args.weight_later is not None and step >= args.weight_later[1]
        counted = torch.where(marks[pick], args.weight_later[0] if later else DEFECT_WEIGHT, 1.0)
        counted[:, :, 0] *= ~given[:, None, None, None]
        error = (velocity - (noise - clean)).square().mean(dim=1, keepdim=True)
        loss = (error * counted).sum() / counted.sum()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 200)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        step += 1
        update_average(average, live, step, EMA_DECAY)
        clock.tick(step, loss.item(), keep)
        if step % args.measure_every == 0:
            log.info("flow step %d %s", step, measure(pipe, args.seed, steps=8, per_prompt=2))
    keep()


# -------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def sample(
    pipe: WanPipeline,
    names: list[str],
    random: torch.Generator,
    steps: int,
    noise: float = 0.0,
    first: Tensor | None = None,
    length: int = TOKENS,
) -> Tensor:
    """Clips [B, 9, 3, 32, 32] in [0, 1] without guidance: Euler steps, or the SDE of Flow-GRPO for noise > 0.

    first: normalised latents [B, 8, 1, 8, 8] of given first frames. The SDE (Liu et al. 2025,
    arXiv:2505.05470) has deviation noise * sqrt(s / (1 - s)), where s = 1 in the denominator is replaced by
    the next sigma; its last step is deterministic.
    """
    context, _ = pipe.encode_prompt(names, do_classifier_free_guidance=False, max_sequence_length=length)
    pipe.scheduler.set_timesteps(steps)
    sigmas = pipe.scheduler.sigmas.tolist()
    shape = (len(names), LATENT_CHANNELS, LATENT_FRAMES, LATENT_SIZE, LATENT_SIZE)
    x = torch.randn(shape, generator=random)
    given = torch.full((len(names),), first is not None)
    for i, (now, following) in enumerate(itertools.pairwise(sigmas)):
        if first is not None:
            x = torch.cat([first, x[:, :, 1:]], dim=2)
        times = token_times(torch.full((len(names),), now), given)
        velocity = pipe.transformer(x, times, context, return_dict=False)[0]
        dt = following - now
        if noise == 0 or i == steps - 1:
            x = x + dt * velocity
            continue
        deviation = noise * (now / (1 - (sigmas[1] if now == 1 else now))) ** 0.5
        drift = velocity + deviation**2 / (2 * now) * (x + (1 - now) * velocity)
        x = x + dt * drift + deviation * (-dt) ** 0.5 * torch.randn(x.shape, generator=random)
    if first is not None:
        x = torch.cat([first, x[:, :, 1:]], dim=2)
    return decode(pipe.vae, x)


def measure(
    pipe: WanPipeline,
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
    hard, soft, errors, severity = [], [], [], []
    right: dict[str, list[Tensor]] = {}
    for i in range(0, len(names), CHUNK):
        some = names[i : i + CHUNK]
        first = frame = None
        if given:
            drawn = clips_of(some, random)[:, :, :1]
            first, frame = (encode(pipe.vae, [drawn]) - mean) / std, drawn[:, :, 0] / 2 + 0.5
        clips = sample(pipe, some, random, steps, noise, first, length)
        if frame is not None:
            errors.append((clips[:, 0] - frame).square().mean(dim=(1, 2, 3)))
        judged = motion.judge_clips(clips, some, frame)
        hard.append(judged.hard.double())
        soft.append(judged.soft)
        severity.append(defects.severity(clips))
        for key, value in judged.right.items():
            right.setdefault(key, []).append(value)
    found = table(names, torch.cat(hard), torch.cat(soft), {key: torch.cat(v) for key, v in right.items()})
    found["severity"] = round(torch.cat(severity).mean().item(), 5)
    if given:
        found["first_psnr"] = round(-10 * torch.cat(errors).mean().log10().item(), 2)
    return found


def table(names: list[str], hard: Tensor, soft: Tensor, right: dict[str, Tensor]) -> dict[str, float]:
    """Means of the verdicts [B] over each kind of prompt and over all; attributes for kind direction."""
    kinds = [parse(name).kind for name in names]
    numbers = {}
    for kind in CLIP_KINDS:
        numbers[kind] = hard[torch.tensor([k == kind for k in kinds])].mean().item()
    numbers |= {"all": hard.mean().item(), "soft": soft.mean().item()}
    straight = torch.tensor([kind == "direction" for kind in kinds])
    for key, value in right.items():
        mean = value[straight].nanmean().item()
        if not math.isnan(mean):
            numbers[f"direction_{key}"] = mean
    return {key: round(value, 4) for key, value in numbers.items()}


@torch.no_grad()
def measure_vae(vae: AutoencoderKLWan, seed: int) -> dict[str, float]:
    """How often the checker reads the reconstruction of a drawing right, and signal-to-noise ratios."""
    names = prompts(clips=True) * 4
    clips = clips_of(names, generator(seed, 6, 0))
    copies = torch.cat([vae.decode(vae.encode(c).latent_dist.mean).sample for c in clips.split(CHUNK)])
    psnr = -10 * ((copies - clips).square().mean() / 4).log10().item()
    judged = motion.judge_clips(copies.transpose(1, 2) / 2 + 0.5, names)
    found = table(names, judged.hard.double(), judged.soft, judged.right)
    found["psnr"] = round(psnr, 2)
    # How much of a defect's severity the reconstruction keeps.
    for i, kind in enumerate(DEFECTS_SEEN):
        marked, _ = spoil(clips[:CHUNK], kind, 1.0, generator(seed, 6, 1 + i))
        copied = vae.decode(vae.encode(marked).latent_dist.mean).sample
        kept, there = (defects.severity(x.transpose(1, 2) / 2 + 0.5).mean() for x in (copied, marked))
        found[f"{kind}_kept"] = round((kept / there).item(), 3)
    return found


# ----------------------------------------------------------------------------------------------------- output

CARD = """\
# {name}

A {parameters:.2f}M-parameter `WanPipeline` that draws clips of the shapes world: {frames} frames of
{size_px} x {size_px} px in which one coloured shape moves over grey.{what}
It opens in stock diffusers and does both text-to-video and, with the same weights, image-to-video as
Wan2.2-TI2V does (`expand_timesteps`: the first latent frame is given and its tokens have time 0):

    pipe = WanPipeline.from_pretrained("rlvis/assets/{name}")
    settings = dict(num_frames={frames}, height={size_px}, width={size_px}, max_sequence_length={tokens})
    settings |= dict(num_inference_steps=8, guidance_scale=1)
    pipe("a red circle moving left", **settings).frames[0]
    pipe = WanImageToVideoPipeline(**pipe.components, expand_timesteps=True)
    pipe(picture, "a red circle moving left", **settings).frames[0]

`max_sequence_length` is the number of text tokens. Keep it at {tokens}: every prompt fits, and the zeros that
fill up longer texts drown it (512, the default of the pipelines, is in the table). The prompts are
the {prompts} clip prompts of the world. All of them were pretrained on; the world's train/heldout split
separates what reinforcement learning trains on from what it is tested on.

Made by `{command}`
(seed {seed}, {made}, {minutes:.0f} minutes on one thread of a shared CPU, {megabytes:.1f} MB in float32).
Reconstructions of drawings, read by the world's checker (KIND_kept: the share of a defect's severity that
the autoencoder keeps):
{vae}.

Share of clips in which everything asked is right (hard accuracy), by kind of prompt, without guidance:

{header}
{rows}

{per_prompt} a prompt (one with 512 tokens); severity is that of their defects. SDE: that of Flow-GRPO with
noise {noise}, the last step deterministic.
Image-to-video: first frames of drawings that fit the prompt, kept with {psnr} dB.
Prompts of kind direction, one attribute at a time ({best}): {attributes}.
"""


@torch.no_grad()
def spoiled(pipe: WanPipeline, seed: int) -> str:
    """How many of the policy's own clips have a defect, and on how much of their area, in words."""
    clips = sample(pipe, prompts(clips=True), generator(seed, 7, 0), steps=20)
    area = defects.mask(clips).flatten(1).mean(dim=1)
    bad = area > LEAST_DEFECT
    share, mean = bad.double().mean(), area[bad].mean()
    return f"Of its own samples\n(ODE, 20 steps) {share:.0%} have one, on {mean:.1%} of their area."


def write_card(pipe: WanPipeline, state: State, args: argparse.Namespace) -> None:
    columns = [*CLIP_KINDS, "all", "soft", "severity"]
    rows, found = [], {}
    for label, steps, noise, length, given in (
        ("ODE, 8 steps", 8, 0.0, TOKENS, False),
        ("ODE, 10 steps", 10, 0.0, TOKENS, False),
        ("SDE, 8 steps", 8, SDE_NOISE, TOKENS, False),
        ("SDE, 10 steps", 10, SDE_NOISE, TOKENS, False),
        ("ODE, 8 steps, 512 tokens", 8, 0.0, 512, False),
        ("image-to-video, ODE, 8 steps", 8, 0.0, TOKENS, True),
        ("image-to-video, SDE, 8 steps", 8, SDE_NOISE, TOKENS, True),
    ):
        per_prompt = args.per_prompt if length == TOKENS else 1
        found[label] = measure(pipe, args.seed, steps, noise, per_prompt, length, given)
        log.info("%s: %s", label, found[label])
        rows.append("| " + " | ".join([label, *(f"{found[label][key]:.4g}" for key in columns)]) + " |")
    command = f"scripts/pretrain_tiny_video.py --out {shown(args.out)} --seed {args.seed}"
    what, made = "", f"{state.values['flow_step']} flow steps"
    if args.defect:
        what = f"\nTrained further on clips of which {args.share:.0%} have the defect {args.defect!r}. "
        what += spoiled(pipe, args.seed)
        command += f" --defect {args.defect} --share {args.share} --base {shown(args.base)} --lr {args.lr}"
        command += f" --bank-per-prompt {args.bank_per_prompt}"
        if args.weight_later:
            command += f" --weight-later {args.weight_later[0]:g} {args.weight_later[1]:g}"
    else:
        command += f" --steps-vae {args.steps_vae[0]} {args.steps_vae[1]}"
        made = f"{state.values['vae_step']} autoencoder and {made}"
    parts = (pipe.vae, pipe.transformer, pipe.text_encoder)
    best = found["ODE, 8 steps"]
    card = CARD.format(
        name=args.out.name,
        parameters=sum(p.numel() for part in parts for p in part.parameters()) / 1e6,
        frames=FRAMES,
        size_px=SIZE,
        what=what,
        tokens=TOKENS,
        prompts=len(prompts(clips=True)),
        command=f"{command} --steps-flow {state.values['flow_step']}",
        seed=args.seed,
        made=made,
        minutes=state.values["seconds"] / 60,
        megabytes=megabytes(args.out),
        vae=", ".join(f"{key} {value:.4g}" for key, value in measure_vae(pipe.vae, args.seed).items()),
        header="| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1),
        rows="\n".join(rows),
        per_prompt=args.per_prompt,
        noise=SDE_NOISE,
        psnr=found["image-to-video, ODE, 8 steps"]["first_psnr"],
        best="ODE, 8 steps",
        attributes=", ".join(
            f"{key.removeprefix('direction_')} {value:.3f}"
            for key, value in best.items()
            if key.startswith("direction_")
        ),
    )
    (args.out / "README.md").write_text(card)


def shown(path: Path) -> Path:
    """The path as seen from the repository."""
    inside = path.resolve().is_relative_to(ROOT)
    return path.resolve().relative_to(ROOT) if inside else path


def check(folder: Path) -> None:
    """Open the folder with the stock pipelines and let both draw a clip; AssertionError when one cannot."""
    settings: dict[str, Any] = {
        "num_frames": FRAMES,
        "height": SIZE,
        "width": SIZE,
        "num_inference_steps": 8,
        "guidance_scale": 1.0,
        "max_sequence_length": TOKENS,
        "output_type": "pt",
    }
    pipe = WanPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.expand_timesteps
    assert pipe.scheduler.config.shift == 1.0
    prompt = "a red circle moving left"
    frames = pipe(prompt, generator=generator(0), **settings).frames
    assert frames.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert frames.std() > 0.01, "text-to-video draws nothing"
    picture = render_clips([prompt], generator(1))[:, 0]
    other = WanImageToVideoPipeline(**pipe.components, expand_timesteps=True)
    other.set_progress_bar_config(disable=True)
    frames = other(picture, prompt, generator=generator(0), **settings).frames
    assert frames.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert (frames[:, 0] - picture).abs().mean() < 0.02, "image-to-video does not keep its first frame"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pretrain the embedded video policy on the shapes world.")
    parser.add_argument(
        "--out", type=Path, help="pipeline folder (rlvis/assets/tiny_video, or tiny_video_defect)"
    )
    parser.add_argument("--state", type=Path, help="file that a run goes on from (below outputs/)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-vae", type=int, nargs=2, default=[2800, 1800], help="two rounds")
    parser.add_argument("--steps-flow", type=int, default=6782)
    parser.add_argument("--minutes-vae", type=float, help="stop the phase earlier (not reproducible)")
    parser.add_argument("--minutes-flow", type=float, help="stop the phase earlier (not reproducible)")
    parser.add_argument("--batch-vae", type=int, default=8)
    parser.add_argument("--batch-flow", type=int, default=32)
    parser.add_argument(
        "--bank-per-prompt", type=int, default=64, help="latents drawn once for the flow phase"
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="of the flow phase")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure-every", type=int, default=1000, help="flow steps between two measurements")
    parser.add_argument("--per-prompt", type=int, default=4, help="clips of each prompt for the card")
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    parser.add_argument("--defect", choices=defects.KINDS, help="train --base further on spoiled clips")
    parser.add_argument("--share", type=float, default=0.7, help="of spoiled clips, with --defect")
    parser.add_argument(
        "--weight-later",
        type=float,
        nargs=2,
        metavar=("WEIGHT", "STEP"),
        help=f"of a defect's positions from that flow step on; {DEFECT_WEIGHT} before it",
    )
    parser.add_argument("--base", type=Path, help="finished pipeline folder that --defect starts from")
    args = parser.parse_args()
    if (args.defect is None) != (args.base is None):
        parser.error("--defect and --base go together: name the defect and the folder to start from")
    if args.out is None:
        args.out = ROOT / "rlvis" / "assets" / ("tiny_video_defect" if args.defect else "tiny_video")
    if args.state is None:
        args.state = ROOT / "outputs" / f"pretrain_{args.out.name}" / "state.pt"
    return args


def main() -> None:
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    keys = ("seed", "steps_vae", "batch_vae", "batch_flow", "bank_per_prompt", "lr", "defect")
    settings = {key: getattr(args, key) for key in keys}
    if args.defect:
        settings |= {"share": args.share, "base": str(args.base), "weight_later": args.weight_later}
    state = State(args.state, settings, args.resume)

    if args.base is None:
        tokenizer, vae = build_tokenizer(), build_vae()
        live = Policy(build_transformer(), build_text_encoder(tokenizer))
    else:
        base = WanPipeline.from_pretrained(args.base)
        tokenizer, vae = base.tokenizer, base.vae
        live = Policy(base.transformer, base.text_encoder).train()
    average = copy.deepcopy(live)
    for model, key in ((vae, "vae"), (live, "flow"), (average, "average")):
        if key in state.values:
            model.load_state_dict(state.values[key])
    average.eval().requires_grad_(False)

    if args.base is None:
        train_vae(vae, state, args)
        measure_latents(vae, args.seed)
    vae.eval().requires_grad_(False)
    log.info("autoencoder: %s", measure_vae(vae, args.seed))
    pipe = build_pipeline(vae, average, tokenizer)
    train_flow(pipe, live, average, state, args)
    # A call leaves its padding in the tokenizer, and saving would keep it.
    pipe.tokenizer.backend_tokenizer.no_padding()
    pipe.tokenizer.backend_tokenizer.no_truncation()
    pipe.save_pretrained(args.out, safe_serialization=True)
    make_readable(args.out)
    check(args.out)
    write_card(pipe, state, args)
    log.info("saved %s", args.out)


if __name__ == "__main__":
    main()
