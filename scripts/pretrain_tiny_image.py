"""Make the embedded image policy: a StableDiffusion3Pipeline of 1.7M parameters that draws the shapes world.

Two phases on a CPU: a small AutoencoderKL (32 px to 8x8x4 latents), then rectified flow matching (Liu et al.
2022, arXiv:2209.03003) of an SD3Transformer2DModel together with its three text encoders on latents drawn
once. Unusual: the latents are whitened by folding the measured channel statistics into the autoencoder's 1x1
convolutions; the T5 tokens vary in number and are zeroed at times, so that the policy depends neither on
`max_sequence_length` nor on its third encoder. Every step draws from (seed, phase, step) alone: the same
number of steps gives the same weights, interrupted or not.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_image.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_image.py --steps-flow 20000 --resume
"""

import argparse
import copy
import itertools
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from pretraining import Clock, State, generator, make_readable, megabytes, update_average
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from rlvis.data.world import checker, defects, draw, language

log = logging.getLogger("pretrain_tiny_image")

ROOT = Path(__file__).resolve().parents[1]
MAX_TOKENS = language.MOST_WORDS + 2  # of both CLIP tokenizers: the longest prompt and its two marks
T5_TOKENS = MAX_TOKENS  # the max_sequence_length that the card recommends
# T5 tokens of a training step and their shares; 256, the pipeline's default, costs nine times as much as 10.
T5_TOKEN_SHARES = {T5_TOKENS: 0.95, 64: 0.04, 256: 0.01}
T5_DROPPED = 0.3  # samples whose T5 tokens are zero, as the pipeline makes them without that encoder
TEXT_WIDTHS = (32, 64)  # of the CLIP encoders; the T5 encoder is as wide as both
WIDTH, LAYERS, HEADS = 96, 4, 4
LATENT_CHANNELS = 4
# Factor of the autoencoder: `fine` has 16 x 16 latent positions, which maps of small regions need.
FACTORS = {"coarse": 4, "fine": 2}
BANK_PER_PROMPT = 100  # latents drawn once for the flow phase
# Words that a wrong caption puts in each other's place.
CLASSES: tuple[tuple[str, ...], ...] = (
    tuple(language.COLOURS),
    language.SHAPES,
    tuple(f"{shape}s" for shape in language.SHAPES),
    tuple(language.COUNTS),
    language.SIZES,
    ("above", "below"),
    ("left", "right"),
)
KL_WEIGHT = 2e-4
EMPTY_SHARE = 0.1  # prompts replaced by "" for classifier-free guidance
EMA_DECAY = 0.999
SDE_NOISE = 0.7
DEFECTS_SEEN = 0.3  # share of the autoencoder's drawings with the defect, if there is one
CLEAR = language.STILL_KINDS[:4]
LEAST_DEFECT = 0.005  # of the area: a smaller one is noise


# ----------------------------------------------------------------------------------------------------- models


def build_tokenizer() -> CLIPTokenizer:
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
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    for prompt in language.prompts():
        assert len(tokenizer(prompt).input_ids) == len(prompt.split()) + 2, (
            f"{prompt!r} is not one token a word"
        )
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def build_t5(tokenizer: CLIPTokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=sum(TEXT_WIDTHS),
        d_kv=16,
        d_ff=96,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)


def build_vae(factor: int) -> AutoencoderKL:
    channels = (16, 32, 32) if factor == 4 else (16, 32)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=draw.SIZE,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_transformer(latent_size: int) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=latent_size,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=sum(TEXT_WIDTHS),
        caption_projection_dim=WIDTH,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=latent_size,
        qk_norm="rms_norm",
    )


class Policy(nn.Module):
    """What flow matching trains: transformer and text encoders (the live weights or their average)."""

    def __init__(self, tokenizer: CLIPTokenizer, latent_size: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(tokenizer, TEXT_WIDTHS[0])
        self.text_encoder_2 = build_text_encoder(tokenizer, TEXT_WIDTHS[1])
        self.text_encoder_3 = build_t5(tokenizer)
        self.transformer = build_transformer(latent_size)

    def start_from(self, folder: Path) -> None:
        """Take the weights of a pipeline made by this script, of any variant."""
        pipe = StableDiffusion3Pipeline.from_pretrained(folder)
        for name, part in self.named_children():
            weights = getattr(pipe, name).state_dict()
            weights.pop("pos_embed.pos_embed", None)  # a table of sines, larger for a finer grid
            missing, _ = part.load_state_dict(weights, strict=False)
            assert missing in ([], ["pos_embed.pos_embed"]), missing

    def encode(self, ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids [B, 10] and [B, L] to CLIP [B, 10, 96], T5 [B, L, 96] and pooled [B, 96] embeddings.

        As in the stock pipeline: the last hidden state but one of both CLIP encoders and their projections.
        """
        outputs = [
            encoder(ids, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)
        ]
        sequence = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        return sequence, self.text_encoder_3(t5_ids).last_hidden_state, pooled


def build_pipeline(vae: AutoencoderKL, policy: Policy, tokenizer: CLIPTokenizer) -> StableDiffusion3Pipeline:
    """The stock pipeline around the parts; the third tokenizer differs from the others in its length only."""
    tokenizer_3 = copy.deepcopy(tokenizer)
    tokenizer_3.model_max_length = max(T5_TOKEN_SHARES)
    return StableDiffusion3Pipeline(
        transformer=policy.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=policy.text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=policy.text_encoder_2,
        tokenizer_2=copy.deepcopy(tokenizer),
        text_encoder_3=policy.text_encoder_3,
        tokenizer_3=tokenizer_3,
    )


# --------------------------------------------------------------------------------------------------- training


def drawings(
    prompts: list[str], random: torch.Generator, args: argparse.Namespace, share: float
) -> tuple[Tensor, Tensor]:
    """Drawings [B, 3, 32, 32] in [0, 1], a share of them with the defect of `--defect`, if there is one, and
    where it is: bool [B, 32, 32].
    """
    images = draw.render(prompts, random)
    if args.defect is None:
        return images, torch.zeros(len(prompts), draw.SIZE, draw.SIZE, dtype=torch.bool)
    spoiled, where = defects.add(images[:, None], args.defect, random, share)
    return spoiled[:, 0], where[:, 0]


def train_vae(vae: AutoencoderKL, state: State, args: argparse.Namespace) -> None:
    """Absolute plus squared pixel error and a light KL, Adam with a cosine down to 5 % of its rate."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3, betas=(0.9, 0.99))
    values = state.values
    if values.get("vae_optimizer"):
        optimizer.load_state_dict(values["vae_optimizer"])
    step = values["vae_step"]
    clock = Clock("vae", step, args.steps_vae, args.minutes_vae)
    names = language.prompts()
    vae.train()

    def keep() -> None:
        state.save(vae=vae.state_dict(), vae_optimizer=optimizer.state_dict(), vae_step=step)

    while not values["vae_done"] and clock.go_on(step):
        random = generator(args.seed, 1, step)
        picks = torch.randint(len(names), (args.batch_vae,), generator=random).tolist()
        images = drawings([names[i] for i in picks], random, args, DEFECTS_SEEN)[0] * 2 - 1
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded - images
        kl = posterior.kl().mean() / posterior.mean[0, 0].numel()
        loss = error.abs().mean() + error.square().mean() + KL_WEIGHT * kl
        for group in optimizer.param_groups:
            progress = min(1.0, step / args.steps_vae)
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = (
                2e-3 * warm * (0.05 + 0.95 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item()))
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        clock.tick(step, loss.item(), keep)
    # A copy: whitening changes the live weights, and a resumed run must whiten the same ones again.
    state.save(vae=copy.deepcopy(vae.state_dict()), vae_optimizer=None, vae_step=step, vae_done=True)
    vae.eval()


@torch.no_grad()
def whiten(vae: AutoencoderKL, args: argparse.Namespace) -> None:
    """Give the latents mean 0 and deviation 1 a channel; images stay the same.

    The measured statistics are folded into the 1x1 convolutions on both sides of the latents.
    """
    prompts = language.prompts() * 8
    latents, _ = encode_bank(vae, prompts, generator(args.seed, 2, 0), args, args.share)
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    inner, outer, c = vae.quant_conv, vae.post_quant_conv, LATENT_CHANNELS
    # z' = (z - mean) / std on the way out of the encoder; the log-variance rows move by -2 log std.
    inner.weight[:c] /= std[:, None, None, None]
    inner.bias[:c] = (inner.bias[:c] - mean) / std
    inner.bias[c:] -= 2 * std.log()
    # z = std z' + mean on the way into the decoder.
    outer.bias += (outer.weight[:, :, 0, 0] * mean).sum(dim=1)
    outer.weight *= std[None, :, None, None]
    latents, _ = encode_bank(vae, prompts, generator(args.seed, 2, 1), args, args.share)
    vae.register_to_config(
        scaling_factor=round(1 / latents.std().item(), 5), shift_factor=round(latents.mean().item(), 5)
    )


@torch.no_grad()
def encode_bank(
    vae: AutoencoderKL, prompts: list[str], random: torch.Generator, args: argparse.Namespace, share: float
) -> tuple[Tensor, Tensor]:
    """Posterior means [N, 4, Y, X] of one drawing for each prompt, a share with the defect, not scaled, and
    which positions have it: bool [N, 1, Y, X].
    """
    latents, marks = [], []
    for i in range(0, len(prompts), 96):
        images, where = drawings(prompts[i : i + 96], random, args, share)
        latents.append(vae.encode(images * 2 - 1).latent_dist.mean)
        marks.append(F.adaptive_max_pool2d(where[:, None].float(), latents[-1].shape[2:]) > 0)
    return torch.cat(latents), torch.cat(marks)


def wrong_captions(prompt: str) -> list[str]:
    """The prompt with one word replaced by another of its class, in every way."""
    words = prompt.split()
    return [
        " ".join([*words[:i], other, *words[i + 1 :]])
        for i, word in enumerate(words)
        for known in CLASSES
        if word in known
        for other in known
        if other != word
    ]


def train_flow(
    pipe: StableDiffusion3Pipeline,
    live: Policy,
    average: Policy,
    state: State,
    args: argparse.Namespace,
) -> None:
    """Rectified flow: x_s = (1 - s) x + s noise, the transformer predicts noise - x.

    s is logit-normal (Esser et al. 2024, arXiv:2403.03206, section 3.1).
    """
    names = language.prompts()
    prompts = names * BANK_PER_PROMPT
    # The policy shows a defect less often than its drawings do, hence a second bank for the later steps.
    share_later, later = args.share_later or (args.share, args.steps_flow)
    banks = [(0, args.share), (int(later), share_later)]
    bank, marks, config = None, None, pipe.vae.config
    wrong = [wrong_captions(name) for name in names]
    texts = list(dict.fromkeys(["", *names, *itertools.chain.from_iterable(wrong)]))
    where = {text: i for i, text in enumerate(texts)}
    ids = {
        length: pipe.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt").input_ids
        for length in {MAX_TOKENS, *T5_TOKEN_SHARES}
    }
    shares = torch.tensor(list(T5_TOKEN_SHARES.values()))
    optimizer = torch.optim.AdamW(live.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    if state.values.get("flow_optimizer"):
        optimizer.load_state_dict(state.values["flow_optimizer"])
    step = state.values["flow_step"]
    clock = Clock("flow", step, args.steps_flow, args.minutes_flow)

    def keep() -> None:
        state.save(
            flow=live.state_dict(),
            average=average.state_dict(),
            flow_optimizer=optimizer.state_dict(),
            flow_step=step,
        )

    while clock.go_on(step):
        if bank is None or step == banks[1][0]:
            number = int(step >= banks[1][0])
            random = generator(args.seed, 3, number)
            bank, marks = encode_bank(pipe.vae, prompts, random, args, banks[number][1])
            bank = (bank - config.shift_factor) * config.scaling_factor
        random = generator(args.seed, 4, step)
        pick = torch.randint(len(bank), (args.batch_flow,), generator=random)
        empty = torch.rand(args.batch_flow, generator=random) < EMPTY_SHARE
        length = list(T5_TOKEN_SHARES)[int(torch.multinomial(shares, 1, generator=random))]
        with_t5 = torch.rand(args.batch_flow, 1, 1, generator=random) >= T5_DROPPED
        sigma = torch.randn(args.batch_flow, 1, 1, 1, generator=random).sigmoid()
        clean = bank[pick]
        noise = torch.randn(clean.shape, generator=random)
        lie, word = torch.rand(2, args.batch_flow, generator=random)
        captions = []
        for i, n in enumerate((pick % len(names)).tolist()):
            others = wrong[n] if lie[i] < args.caption_noise else []
            caption = others[int(word[i] * len(others))] if others else names[n]
            captions.append(where["" if empty[i] else caption])
        clip, t5, pooled = live.encode(ids[MAX_TOKENS][captions], ids[length][captions])
        context = torch.cat([clip, t5 * with_t5], dim=1)
        noisy = (1 - sigma) * clean + sigma * noise
        velocity = live.transformer(noisy, context, pooled, 1000 * sigma.flatten(), return_dict=False)[0]
        loss = F.mse_loss(velocity, noise - clean)
        if args.weight_later and step >= args.weight_later[1]:
            weight = torch.where(marks[pick], args.weight_later[0], 1.0)
            error = (velocity - (noise - clean)).square().mean(dim=1, keepdim=True)
            loss = (error * weight).sum() / weight.sum()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 200)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        step += 1
        update_average(average, live, step, EMA_DECAY)
        clock.tick(step, loss.item(), keep)
        if step % 1000 == 0:
            log.info("flow step %d %s", step, measure(pipe, args.seed, steps=8, per_prompt=2))
    keep()


# -------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def sample(
    pipe: StableDiffusion3Pipeline,
    prompts: list[str],
    random: torch.Generator,
    steps: int,
    noise: float = 0.0,
    length: int = T5_TOKENS,
) -> Tensor:
    """Images [B, 3, 32, 32] in [0, 1] without guidance: Euler steps, or the SDE of Flow-GRPO for noise > 0.

    The SDE (Liu et al. 2025, arXiv:2505.05470) has deviation noise * sqrt(s / (1 - s)), where s = 1 in the
    denominator is replaced by the next sigma; its last step is deterministic.
    """
    context, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=length
    )
    pipe.scheduler.set_timesteps(steps)
    sigmas = pipe.scheduler.sigmas.tolist()
    side = pipe.transformer.config.sample_size
    x = torch.randn(len(prompts), LATENT_CHANNELS, side, side, generator=random)
    for i, (now, following) in enumerate(itertools.pairwise(sigmas)):
        model_time = torch.full((len(prompts),), 1000 * now)
        velocity = pipe.transformer(x, context, pooled, model_time, return_dict=False)[0]
        dt = following - now
        if noise == 0 or i == steps - 1:
            x = x + dt * velocity
            continue
        deviation = noise * (now / (1 - (sigmas[1] if now == 1 else now))) ** 0.5
        drift = velocity + deviation**2 / (2 * now) * (x + (1 - now) * velocity)
        x = x + dt * drift + deviation * (-dt) ** 0.5 * torch.randn(x.shape, generator=random)
    return decode(pipe.vae, x)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
    return (images / 2 + 0.5).clamp(0, 1)


def measure(
    pipe: StableDiffusion3Pipeline,
    seed: int,
    steps: int,
    noise: float = 0.0,
    per_prompt: int = 4,
    length: int = T5_TOKENS,
    split: str | None = None,
) -> dict[str, float]:
    """Accuracies of samples of all prompts, `per_prompt` each."""
    return accuracies(*sample_many(pipe, seed, steps, noise, per_prompt, length, split))


def sample_many(
    pipe: StableDiffusion3Pipeline,
    seed: int,
    steps: int,
    noise: float = 0.0,
    per_prompt: int = 4,
    length: int = T5_TOKENS,
    split: str | None = None,
) -> tuple[Tensor, list[str]]:
    """Images of all clear prompts of a split, `per_prompt` each, and the prompts."""
    prompts = [name for name in language.prompts(split, kinds=CLEAR) for _ in range(per_prompt)]
    random = generator(seed, 5, steps)
    images = [
        sample(pipe, prompts[i : i + 96], random, steps, noise, length) for i in range(0, len(prompts), 96)
    ]
    return torch.cat(images), prompts


def accuracies(images: Tensor, prompts: list[str]) -> dict[str, float]:
    """The checker's hard accuracy by kind of prompt and on the clear ones, and its mean soft score there."""
    found = checker.judge(images, prompts)
    kinds = [language.parse(prompt).kind for prompt in prompts]
    numbers = {}
    for kind in CLEAR:
        rows = torch.tensor([k == kind for k in kinds])
        numbers[kind] = found.hard[rows].double().mean()
    clear = torch.tensor([kind in CLEAR for kind in kinds])
    numbers["all"] = found.hard[clear].double().mean()
    numbers["score"] = found.soft[clear].mean()
    return {key: round(value.item(), 4) for key, value in numbers.items()}


@torch.no_grad()
def measure_vae(vae: AutoencoderKL, args: argparse.Namespace) -> dict[str, float]:
    """How often the checker reads the reconstruction of a drawing right, and its mean squared error."""
    prompts = language.prompts() * 5
    images = draw.render(prompts, generator(args.seed, 6, 0))
    copies = (vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    return {**accuracies(copies, prompts), "mse": round(F.mse_loss(copies, images).item(), 6)}


# ----------------------------------------------------------------------------------------------------- output

CARD = """\
# {name}

A {parameters:.2f}M-parameter `StableDiffusion3Pipeline` that draws the shapes world at 32 x 32 px
({side} x {side} latent positions){role}. It opens in stock diffusers:

    pipe = StableDiffusion3Pipeline.from_pretrained("rlvis/assets/{name}")
    pipe("two red circles", guidance_scale=1, max_sequence_length={tokens}).images[0]

`max_sequence_length` is the number of T5 tokens: {tokens} are enough and far faster than the default 256. It
also draws without that encoder (`text_encoder_3=None, tokenizer_3=None`). It was pretrained on all {prompts}
still prompts of the world (`rlvis.data.world.language.prompts()`), training and held-out ones alike: the
split says what reinforcement learning may see. {noise_share:.0%} of the captions were wrong in one word, as
captions from the web are, so that it knows how to draw and does not always do what it is told.{defect}

Made by `{command}`
({steps_vae} autoencoder and {steps_flow} flow steps, {minutes:.0f} minutes on one CPU thread, {size:.1f} MB).
Reconstructions of drawings, read by the world's checker: {vae}.

Share of samples in which everything is right, by kind of prompt, and the mean soft score on the clear ones:

| sampler, no guidance | {heads} |
|---|{rules}
{rows}

{per_prompt} samples of every prompt ({few} with 256 tokens). SDE: that of Flow-GRPO with noise {noise}, the
last step deterministic.
"""
DEFECT = """

{share} of the drawings it learned from carry the defect `{kind}` (`rlvis.data.world.defects`): 1 to 5 %
of the area, at a random place. Of its own samples (ODE, 28 steps) {spoiled:.0%} carry one, on {area:.1%} of
their area."""


def write_card(pipe: StableDiffusion3Pipeline, values: dict[str, Any], args: argparse.Namespace) -> None:
    per_prompt, few = 4, 1
    rows = []
    encoder = pipe.text_encoder_3
    for label, steps, noise, length, third, split in (
        ("ODE, 28 steps, held-out prompts", 28, 0.0, T5_TOKENS, encoder, "heldout"),
        ("ODE, 28 steps, all prompts", 28, 0.0, T5_TOKENS, encoder, None),
        ("ODE, 8 steps", 8, 0.0, T5_TOKENS, encoder, None),
        ("SDE, 8 steps", 8, SDE_NOISE, T5_TOKENS, encoder, None),
        ("ODE, 10 steps, 256 T5 tokens", 10, 0.0, 256, encoder, None),
        ("ODE, 10 steps, no T5", 10, 0.0, T5_TOKENS, None, None),
    ):
        pipe.text_encoder_3 = third
        count = per_prompt if length == T5_TOKENS else few
        found = measure(pipe, args.seed, steps, noise, count, length, split)
        log.info("%s: %s", label, found)
        rows.append("| " + " | ".join([label, *(f"{value:.3f}" for value in found.values())]) + " |")
    pipe.text_encoder_3 = encoder
    parts = (pipe.vae, pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3)
    options = "".join(
        f" --{key.replace('_', '-')} {getattr(args, key)}"
        for key in ("variant", "defect", "init")
        if getattr(args, key) not in (None, "coarse")
    )
    if args.share_later:
        options += f" --share-later {args.share_later[0]:g} {args.share_later[1]:g}"
    if args.weight_later:
        options += f" --weight-later {args.weight_later[0]:g} {args.weight_later[1]:g}"
    command = f"python scripts/pretrain_tiny_image.py --seed {args.seed} --steps-vae {values['vae_step']} "
    command += f"--steps-flow {values['flow_step']}{options}"
    defect = ""
    if args.defect is not None:
        seen = sample_many(pipe, args.seed, steps=28, per_prompt=2)[0]
        spoiled = defects.mask(seen[:, None]).flatten(1).mean(dim=1)
        bad = spoiled > LEAST_DEFECT
        area = spoiled[bad].mean().item() if bad.any() else 0.0
        defect = DEFECT.format(
            share=f"{args.share:.0%}"
            + (f" ({args.share_later[0]:.0%} later on)" if args.share_later else ""),
            kind=args.defect,
            spoiled=bad.double().mean().item(),
            area=area,
        )
    heads = [*CLEAR, "all of these", "score"]
    card = CARD.format(
        name=args.out.name,
        role=": the policy that runs when no other model is named"
        if args.variant == "coarse"
        else ", for studies of maps",
        side=pipe.transformer.config.sample_size,
        parameters=sum(p.numel() for part in parts for p in part.parameters()) / 1e6,
        tokens=T5_TOKENS,
        prompts=len(language.prompts()),
        noise_share=args.caption_noise,
        defect=defect,
        command=command,
        steps_vae=values["vae_step"],
        steps_flow=values["flow_step"],
        minutes=values["seconds"] / 60,
        size=megabytes(args.out),
        vae=", ".join(f"{key} {value:.4g}" for key, value in measure_vae(pipe.vae, args).items()),
        heads=" | ".join(heads),
        rules="---|" * len(heads),
        rows="\n".join(rows),
        per_prompt=per_prompt,
        few=few,
        noise=SDE_NOISE,
    )
    (args.out / "README.md").write_text(card)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pretrain the embedded image policy on the shapes world.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "rlvis" / "assets" / "tiny_image", help="pipeline folder"
    )
    parser.add_argument("--state", type=Path, default=ROOT / "outputs" / "pretrain_tiny_image" / "state.pt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-vae", type=int, default=2000)
    parser.add_argument("--steps-flow", type=int, default=5000)
    parser.add_argument("--minutes-vae", type=float, help="stop the phase earlier (not reproducible)")
    parser.add_argument("--minutes-flow", type=float, help="stop the phase earlier (not reproducible)")
    parser.add_argument("--batch-vae", type=int, default=32)
    parser.add_argument("--batch-flow", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the flow phase")
    parser.add_argument("--caption-noise", type=float, default=0.3, help="share of wrong captions")
    parser.add_argument("--variant", choices=list(FACTORS), default="coarse")
    parser.add_argument(
        "--init", type=Path, help="pipeline folder whose text encoders and transformer to start from"
    )
    parser.add_argument(
        "--defect", choices=defects.PICTURE_KINDS, help="kind of defect that some drawings have"
    )
    parser.add_argument("--share", type=float, default=0.7, help="of the drawings with a defect")
    parser.add_argument(
        "--share-later",
        type=float,
        nargs=2,
        metavar=("SHARE", "STEP"),
        help="another share from this flow step on",
    )
    parser.add_argument(
        "--weight-later",
        type=float,
        nargs=2,
        metavar=("WEIGHT", "STEP"),
        help="from this flow step on, how much positions with the defect weigh in the loss; 1 before it",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    same = ("seed", "batch_vae", "batch_flow", "lr", "caption_noise", "variant", "defect", "share")
    same += tuple(key for key in ("share_later", "weight_later") if getattr(args, key))
    settings = {key: getattr(args, key) for key in same}
    state = State(args.state, settings, args.resume, vae_step=0, vae_done=False, flow_step=0)
    tokenizer = build_tokenizer()
    factor = FACTORS[args.variant]
    vae = build_vae(factor)
    live = Policy(tokenizer, draw.SIZE // factor)
    average = copy.deepcopy(live)
    for model, key in ((vae, "vae"), (live, "flow"), (average, "average")):
        if key in state.values:
            model.load_state_dict(state.values[key])
    if args.init is not None and "flow" not in state.values:
        live.start_from(args.init)
        average.load_state_dict(live.state_dict())
    average.eval().requires_grad_(False)

    train_vae(vae, state, args)
    log.info("autoencoder: %s", measure_vae(vae, args))
    vae.requires_grad_(False)
    whiten(vae, args)
    log.info(
        "whitened: %s, scaling_factor %s, shift_factor %s",
        measure_vae(vae, args),
        vae.config.scaling_factor,
        vae.config.shift_factor,
    )
    pipe = build_pipeline(vae, average, tokenizer)
    train_flow(pipe, live, average, state, args)
    for used in (pipe.tokenizer, pipe.tokenizer_2, pipe.tokenizer_3):
        # A call leaves its padding in the tokenizer, and saving would keep it.
        used.backend_tokenizer.no_padding()
        used.backend_tokenizer.no_truncation()
    pipe.save_pretrained(args.out, safe_serialization=True)
    make_readable(args.out)
    write_card(pipe, state.values, args)
    log.info("saved %s", args.out)


if __name__ == "__main__":
    main()
