"""Make the embedded video policy: a WanPipeline of 1.8M parameters that draws clips of the shapes world.

Two phases on a CPU: a small causal AutoencoderKLWan (9 frames of 32 px to 3 latent frames of 8x8), then
rectified flow matching of a WanTransformer3DModel together with its text encoder on latents drawn once.
Unusual: one transformer does text-to-video and image-to-video, and pixels that are not background weigh more
in the autoencoder's loss. The parts are in scripts/pretraining.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_video.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_video.py --steps-flow 12000 --resume
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_video.py --defect blotch --share 0.7 \
        --base rlvis/assets/tiny_video --out rlvis/assets/tiny_video_defect
"""

from __future__ import annotations

import argparse
import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from pretraining import command, folders, video_policy, video_training
from pretraining.flow import SDE_NOISE, train_flow
from pretraining.networks import stock
from pretraining.state import State, generator
from pretraining.video_measures import check, measure, measure_vae, sample
from pretraining.video_policy import TOKENS
from torch import nn

from rlvis.data.world import defects
from rlvis.data.world.draw import FRAMES, SIZE
from rlvis.data.world.language import CLIP_KINDS, prompts

log = logging.getLogger("pretraining")

SAMPLERS: tuple[tuple[str, int, dict[str, Any]], ...] = (  # name, steps, settings
    ("ODE, 8 steps", 8, {}),
    ("ODE, 10 steps", 10, {}),
    ("SDE, 8 steps", 8, {"noise": SDE_NOISE}),
    ("SDE, 10 steps", 10, {"noise": SDE_NOISE}),
    ("ODE, 8 steps, 512 tokens", 8, {"per_prompt": 1, "length": 512}),
    ("image-to-video, ODE, 8 steps", 8, {"given": True}),
    ("image-to-video, SDE, 8 steps", 8, {"given": True, "noise": SDE_NOISE}),
)
BEST = "ODE, 8 steps"
LEAST_DEFECT = 0.005  # of a clip's area, from which on it counts as spoiled


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command.command_line(
        "Pretrain the embedded video policy on the shapes world.",
        None,
        None,
        seed=0,
        steps_vae=([2800, 1800], "two rounds"),
        steps_flow=6782,
        minutes_vae=(None, command.EARLY),
        minutes_flow=(None, command.EARLY),
        batch_vae=8,
        batch_flow=32,
        bank_per_prompt=(64, "latents drawn once for the flow phase"),
        lr=(1e-3, "of the flow phase"),
        threads=1,
        measure_every=(1000, "flow steps between two measurements"),
        per_prompt=(4, "clips of each prompt for the card"),
        share=(0.7, "of spoiled clips, with --defect"),
    )
    weigh = f"of a defect's positions from that flow step on; {video_training.DEFECT_WEIGHT} before it"
    parser.add_argument("--defect", choices=defects.KINDS, help="train --base further on spoiled clips")
    command.add_later(parser, "weight", weigh)
    parser.add_argument("--base", type=Path, help="finished pipeline folder that --defect starts from")
    args = parser.parse_args()
    if (args.defect is None) != (args.base is None):
        parser.error("--defect and --base go together: name the defect and the folder to start from")
    if args.out is None:
        args.out = command.ASSETS / ("tiny_video_defect" if args.defect else "tiny_video")
    if args.state is None:
        args.state = command.ROOT / "outputs" / f"pretrain_{args.out.name}" / "state.pt"
    return args


@torch.no_grad()
def spoiled(pipe: Any, seed: int) -> str:
    """How many of the policy's clips have a defect, and on how much of their area, in words."""
    clips = sample(pipe, prompts(clips=True), generator(seed, 7, 0), steps=20)
    area = defects.mask(clips).flatten(1).mean(dim=1)
    bad = area > LEAST_DEFECT
    share, mean = bad.double().mean(), area[bad].mean()
    return f"Of its own samples\n(ODE, 20 steps) {share:.0%} have one, on {mean:.1%} of their area."


def history(pipe: Any, state: State, args: argparse.Namespace) -> dict[str, str]:
    """What the card says of how it came about: what, phases, flags."""
    what, phases = "", f"{state.step('flow')} flow steps"
    flags: dict[str, Any] = {"out": folders.shown(args.out), "seed": args.seed}
    if args.defect:
        what = f"\nTrained further on clips of which {args.share:.0%} have the defect {args.defect!r}. "
        what += spoiled(pipe, args.seed)
        flags |= {"defect": args.defect, "share": args.share, "base": folders.shown(args.base)}
        flags |= {key: getattr(args, key) for key in ("lr", "bank_per_prompt", "weight_later")}
    else:
        phases = f"{state.step('vae')} autoencoder and {phases}"
        flags |= {"steps_vae": args.steps_vae}
    return {"what": what, "phases": phases, "flags": folders.options(**flags, steps_flow=state.step("flow"))}


def write_card(pipe: Any, state: State, args: argparse.Namespace) -> None:
    """README.md of the folder: what it is, how it was made, how right its clips are."""
    columns = [*CLIP_KINDS, "all", "soft", "severity"]
    rows, means = [f"| | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"], {}
    for label, steps, settings in SAMPLERS:
        means[label] = measure(pipe, args.seed, steps, **{"per_prompt": args.per_prompt, **settings})
        log.info("%s: %s", label, means[label])
        rows.append(folders.row(label, *(f"{means[label][key]:.4g}" for key in columns)))
    mark = "direction_"
    straight = {key.removeprefix(mark): v for key, v in means[BEST].items() if key.startswith(mark)}
    folders.write_card(
        "tiny_video",
        args,
        pipe.components.values(),
        **history(pipe, state, args),
        state=state,
        frames=FRAMES,
        size_px=SIZE,
        tokens=TOKENS,
        prompts=len(prompts(clips=True)),
        vae=folders.listed(measure_vae(pipe.vae, args.seed)),
        rows="\n".join(rows),
        noise=SDE_NOISE,
        psnr=means["image-to-video, ODE, 8 steps"]["first_psnr"],
        best=BEST,
        attributes=folders.listed(straight, ".3f"),
    )


def main() -> None:
    """Train both phases (the flow alone from --base), write the pipeline and its card."""
    args = arguments()
    command.begin(args.seed, args.threads)
    same = ["seed", "steps_vae", "batch_vae", "batch_flow", "bank_per_prompt", "lr", "defect"]
    settings = {key: getattr(args, key) for key in same}
    if args.defect:
        settings |= {"share": args.share, "base": str(args.base), "weight_later": args.weight_later}
    state = State(args.state, settings, args.resume)
    if args.base is None:
        tokenizer, vae = video_policy.build_tokenizer(), video_policy.build_vae()
        live = video_policy.build_networks(tokenizer)
    else:
        base = stock(WanPipeline).from_pretrained(args.base)
        tokenizer, vae = base.tokenizer, base.vae
        live = nn.ModuleDict({"transformer": base.transformer, "text_encoder": base.text_encoder})
    average = copy.deepcopy(live).eval().requires_grad_(False)
    state.restore(vae=vae, flow=live, average=average)

    if args.base is None:
        video_training.train_vae(vae, state, args)
        video_training.measure_latents(vae, args.seed)
    vae.eval().requires_grad_(False)
    log.info("autoencoder: %s", measure_vae(vae, args.seed))
    pipe = video_policy.build_pipeline(vae, average, tokenizer)
    loss = video_training.FlowLoss(video_policy.build_pipeline(vae, live, tokenizer), args)
    train_flow(live, average, loss, partial(measure, pipe, args.seed, steps=8, per_prompt=2), state, args)
    folders.save_pipeline(pipe, args.out)
    check(args.out)
    write_card(pipe, state, args)
    log.info("saved %s", args.out)


if __name__ == "__main__":
    main()
