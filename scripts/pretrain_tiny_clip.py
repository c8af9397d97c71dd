"""Make the embedded judge: a small open_clip CLIP that has learned the shapes world from captioned drawings.

Contrastive training (Radford et al. 2021, arXiv:2103.00020) with open_clip's own loss. What is unusual is in
its captions: scripts/pretraining/clip_data.py. Every step draws from (seed, step) alone: the same number of
steps gives the same weights, interrupted or not.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_clip.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_clip.py --resume
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from pretraining import clip_data, command, folders
from pretraining.clip_measures import measure
from pretraining.networks import configuration, word_tokenizer
from pretraining.phases import Phase, cosine, train
from pretraining.state import State, generator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlvis.data.world import language

log = logging.getLogger("pretraining")

WEIGHTS = "open_clip_model.safetensors"
LOG_STEPS = 50


def build_tokenizer(longest: int) -> Any:
    """One token a word of the world; the end mark has the highest id, which open_clip pools at."""
    texts = [*language.prompts(), *language.prompts(clips=True), "a object"]
    words = sorted({word for text in texts for word in text.split()})
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[START]", "eos_token": "[END]"}
    tokens = ["[PAD]", "[UNK]", "[START]", *words, "[END]"]
    return word_tokenizer(tokens, "[START] $A [END]", longest, marks, lower=True)


def train_judge(model: Any, tokens: Any, state: State, args: argparse.Namespace) -> None:
    """AdamW, a cosine to zero, open_clip's symmetric cross-entropy; a learned temperature, at most 100."""
    contrast = open_clip.ClipLoss()
    parameters = list(model.parameters())
    decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05}
    others = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}

    def loss(step: int) -> Tensor:
        images, captions = clip_data.batch(args.seed, step)
        value: Tensor = contrast(*model(images * 2 - 1, tokens(captions)))
        return value

    @torch.no_grad()
    def after(step: int) -> None:
        model.logit_scale.clamp_(max=math.log(100))
        if step % LOG_STEPS == 0:
            log.info("scale %.1f", model.logit_scale.exp().item())

    phase = Phase(
        name="clip",
        models={"clip": model},
        optimizer=torch.optim.AdamW([decayed, others], lr=args.lr, betas=(0.9, 0.98)),
        steps=args.steps,
        loss=loss,
        rate=lambda step: args.lr * min(1.0, (step + 1) / 50) * cosine(step, args.steps),
        after=after,
        log_steps=LOG_STEPS,
    )
    state.restore(clip=model)
    train(phase, state)


def export(model: nn.Module, tokenizer: Any, config: dict[str, Any], out: Path) -> None:
    """A folder that open_clip opens as local-dir: configuration, weights, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="ascii")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / WEIGHTS)
    folders.make_readable(out)


def write_card(model: nn.Module, means: dict[str, float], args: argparse.Namespace) -> None:
    """README.md of the folder."""
    config = configuration("tiny_clip")["model_cfg"]
    folders.write_card(
        "tiny_clip",
        args,
        [model],
        **means,
        vision=config["vision_cfg"],
        text=config["text_cfg"],
        vague=clip_data.vague_share(args.seed),
        batch=len(clip_data.batch_prompts(generator(args.seed, 1, 0))),
        clear=len(language.prompts(kinds=clip_data.CLEAR)),
        size=(args.out / WEIGHTS).stat().st_size / 1e6,
    )


def main() -> None:
    """Train, measure, write the folder and its card."""
    out, state = command.ASSETS / "tiny_clip", Path(tempfile.gettempdir()) / "pretrain_tiny_clip.pt"
    parser = command.command_line((__doc__ or "").split("\n")[0], out, state, seed=0, steps=500, lr=2e-3)
    anew = "write the card of the weights in --out anew"
    parser.add_argument("--measure-only", action="store_true", help=anew)
    args = parser.parse_args()
    command.begin(args.seed)
    config = configuration("tiny_clip")
    text = config["model_cfg"]["text_cfg"]
    tokenizer = build_tokenizer(text["context_length"])
    text["vocab_size"] = len(tokenizer)
    model = open_clip.CLIP(**json.loads(json.dumps(config["model_cfg"]))).eval()
    with tempfile.TemporaryDirectory() as folder:
        export(model, tokenizer, config, Path(folder))
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    if args.measure_only:
        model.load_state_dict(load_file(args.out / WEIGHTS))
    else:
        settings = {"seed": args.seed, "steps": args.steps, "lr": args.lr}
        train_judge(model, tokens, State(args.state, settings, args.resume), args)
        export(model, tokenizer, config, args.out)
    means = measure(model, tokens, args.seed)
    log.info("%s", means)
    write_card(model, means, args)


if __name__ == "__main__":
    main()
