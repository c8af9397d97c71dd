"""Make the embedded image policy: a StableDiffusion3Pipeline of 1.7M parameters that draws the shapes world.

Two phases on a CPU: a small AutoencoderKL (32 px to 8x8x4 latents), then rectified flow matching of an
SD3Transformer2DModel together with its three text encoders on latents drawn once. Unusual: the latents are
whitened by folding the measured channel statistics into the autoencoder's 1x1 convolutions; the T5 tokens
vary in number and are zeroed at times. The parts are in scripts/pretraining.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_image.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_image.py --steps-flow 20000 --resume
"""

from __future__ import annotations

import argparse
import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pretraining import command, folders, image_policy, image_training
from pretraining.flow import SDE_NOISE, train_flow
from pretraining.image_policy import FACTORS, T5_TOKENS, sample
from pretraining.prompts import accuracies
from pretraining.state import State, generator
from torch import Tensor

from rlvis.data.world import checker, defects, draw, language

log = logging.getLogger("pretraining")

CLEAR = language.STILL_KINDS[:4]
CHUNK = 96  # pictures that are sampled at a time
PER_PROMPT = 4
FEW = {"per_prompt": 1, "length": 256}
SAMPLERS: tuple[tuple[str, int, dict[str, Any], bool], ...] = (  # name, steps, settings, with the T5 encoder
    ("ODE, 28 steps, held-out prompts", 28, {"split": "heldout"}, True),
    ("ODE, 28 steps, all prompts", 28, {}, True),
    ("ODE, 8 steps", 8, {}, True),
    ("SDE, 8 steps", 8, {"noise": SDE_NOISE}, True),
    ("ODE, 10 steps, 256 T5 tokens", 10, FEW, True),
    ("ODE, 10 steps, no T5", 10, {}, False),
)
LEAST_DEFECT = 0.005  # of the area: a smaller one is noise
DEFECT = """

{share} of the drawings it learned from carry the defect `{kind}` (`rlvis.data.world.defects`): 1 to 5 %
of the area, at a random place. Of its own samples (ODE, 28 steps) {spoiled:.0%} carry one, on {area:.1%} of
their area."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command.command_line(
        "Pretrain the embedded image policy on the shapes world.",
        command.ASSETS / "tiny_image",
        command.ROOT / "outputs" / "pretrain_tiny_image" / "state.pt",
        seed=0,
        steps_vae=2000,
        steps_flow=5000,
        minutes_vae=(None, command.EARLY),
        minutes_flow=(None, command.EARLY),
        batch_vae=32,
        batch_flow=64,
        lr=(1e-3, "of the flow phase"),
        caption_noise=(0.3, "share of wrong captions"),
        share=(0.7, "of the drawings with a defect"),
        threads=1,
    )
    init = "pipeline folder whose text encoders and transformer to start from"
    weigh = "from this flow step on, how much positions with the defect weigh in the loss; 1 before it"
    parser.add_argument("--variant", choices=list(FACTORS), default="coarse")
    parser.add_argument("--init", type=Path, help=init)
    kind = "kind of defect that some drawings have"
    parser.add_argument("--defect", choices=defects.PICTURE_KINDS, help=kind)
    command.add_later(parser, "share", "another share from this flow step on")
    command.add_later(parser, "weight", weigh)
    parser.set_defaults(measure_every=1000)
    return parser.parse_args()


def measure(pipe: Any, seed: int, steps: int, **settings: Any) -> dict[str, float]:
    """Accuracies of samples; settings as in `sample_many`."""
    return judge(*sample_many(pipe, seed, steps, **settings))


def sample_many(
    pipe: Any,
    seed: int,
    steps: int,
    noise: float = 0.0,
    per_prompt: int = PER_PROMPT,
    length: int = T5_TOKENS,
    split: str | None = None,
) -> tuple[Tensor, list[str]]:
    """Images of all clear prompts of a split, `per_prompt` each, and the prompts."""
    prompts = [name for name in language.prompts(split, kinds=CLEAR) for _ in range(per_prompt)]
    random = generator(seed, 5, steps)
    chunks = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]
    return torch.cat([sample(pipe, chunk, random, steps, noise, length) for chunk in chunks]), prompts


def judge(images: Tensor, prompts: list[str]) -> dict[str, float]:
    """What the checker reads in images."""
    judged = checker.judge(images, prompts)
    return accuracies(judged.hard, judged.soft, prompts, CLEAR)


@torch.no_grad()
def measure_vae(vae: Any, seed: int) -> dict[str, float]:
    """How often the checker reads the reconstruction of a drawing right, and its mean squared error."""
    prompts = language.prompts() * 5
    images = draw.render(prompts, generator(seed, 6, 0))
    copies = (vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    return {**judge(copies, prompts), "mse": round(F.mse_loss(copies, images).item(), 6)}


def defect(pipe: Any, args: argparse.Namespace) -> str:
    """What the card says of the defect."""
    images, _ = sample_many(pipe, args.seed, steps=28, per_prompt=2)
    spoiled = defects.mask(images[:, None]).flatten(1).mean(dim=1)
    bad = spoiled > LEAST_DEFECT
    area = spoiled[bad].mean().item() if bad.any() else 0.0
    share = f"{args.share:.0%}" + (f" ({args.share_later[0]:.0%} later on)" if args.share_later else "")
    return DEFECT.format(share=share, kind=args.defect, spoiled=bad.double().mean().item(), area=area)


def write_card(pipe: Any, state: State, args: argparse.Namespace) -> None:
    """README.md of the folder: what it is, how it was made, how right its samples are."""
    rows, encoder = [], pipe.text_encoder_3
    for label, steps, settings, with_t5 in SAMPLERS:
        pipe.text_encoder_3 = encoder if with_t5 else None
        means = measure(pipe, args.seed, steps, **settings)
        log.info("%s: %s", label, means)
        rows.append(folders.row(label, *(f"{value:.3f}" for value in means.values())))
    pipe.text_encoder_3 = encoder
    coarse = args.variant == "coarse"
    variant = {"variant": None if coarse else args.variant, "defect": args.defect, "init": args.init}
    heads = [*CLEAR, "all of these", "score"]
    folders.write_card(
        "tiny_image",
        args,
        pipe.components.values(),
        state=state,
        role=": the policy that runs when no other model is named" if coarse else ", for studies of maps",
        side=pipe.transformer.config.sample_size,
        tokens=T5_TOKENS,
        prompts=len(language.prompts()),
        defect=defect(pipe, args) if args.defect else "",
        flags=folders.options(**variant, share_later=args.share_later, weight_later=args.weight_later),
        vae=folders.listed(measure_vae(pipe.vae, args.seed)),
        heads=" | ".join(heads),
        rules="---|" * len(heads),
        rows="\n".join(rows),
        per_prompt=PER_PROMPT,
        few=FEW["per_prompt"],
        noise=SDE_NOISE,
    )


def main() -> None:
    """Train both phases, write the pipeline and its card."""
    args = arguments()
    command.begin(args.seed, args.threads)
    same = ["seed", "batch_vae", "batch_flow", "lr", "caption_noise", "variant", "defect", "share"]
    same += [key for key in ("share_later", "weight_later") if getattr(args, key)]
    state = State(args.state, {key: getattr(args, key) for key in same}, args.resume)
    tokenizer, factor = image_policy.build_tokenizer(), FACTORS[args.variant]
    vae = image_policy.build_vae(factor)
    live = image_policy.build_networks(tokenizer, draw.SIZE // factor)
    if args.init is not None:
        image_policy.start_from(live, args.init)
    average = copy.deepcopy(live).eval().requires_grad_(False)
    state.restore(vae=vae, flow=live, average=average)

    image_training.train_vae(vae, state, args)
    vae.eval().requires_grad_(False)
    log.info("autoencoder: %s", measure_vae(vae, args.seed))
    image_training.whiten(vae, args)
    scaling, shift = vae.config.scaling_factor, vae.config.shift_factor
    log.info("whitened: %s, scaling_factor %s, shift_factor %s", measure_vae(vae, args.seed), scaling, shift)
    pipe = image_policy.build_pipeline(vae, average, tokenizer)
    loss = image_training.FlowLoss(image_policy.build_pipeline(vae, live, tokenizer), args)
    score = partial(measure, pipe, args.seed, steps=8, per_prompt=2)
    train_flow(live, average, loss, score, state, args)
    folders.save_pipeline(pipe, args.out)
    write_card(pipe, state, args)
    log.info("saved %s", args.out)


if __name__ == "__main__":
    main()
