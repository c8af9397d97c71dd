"""Make the embedded judge: a small open_clip CLIP that has learned the shapes world from captioned drawings.

Contrastive training (Radford et al. 2021, arXiv:2103.00020) with open_clip's own loss. Unusual: over a
quarter of the captions leave attributes out ("something red" for a red circle), so that the judge is unsure
of vague prompts as one trained on captions from the web is; and a batch holds every clear prompt once, so
that only vague captions meet themselves as negatives. Every step draws from (seed, step) alone: the same
number of steps gives the same weights, interrupted or not.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_clip.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_clip.py --resume
"""

import argparse
import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from pretraining import State, generator, make_readable
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rlvis.data.world import draw, language

log = logging.getLogger("pretrain_tiny_clip")

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "open_clip_model.safetensors"
CONTEXT = 12  # tokens of a caption: nine words and two marks at most
WIDTH, LAYERS, EMBED = 96, 4, 64
CLEAR = ("single", "size", "count", "relation")
PAIRS = 28  # random relations of a batch, each next to its opposite
VAGUE_SHARE = 0.22  # captions of clear drawings that leave something out; the vague prompts come on top
MOTION_SHARE = 0.05  # captions of single drawings that also claim a motion, which no still frame can deny
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


# ------------------------------------------------------------------------------------------------------ model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the world; the end mark has the highest id, which open_clip pools at."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    texts = [*language.prompts(), *language.prompts(clips=True), "a object"]
    words = sorted({word for text in texts for word in text.split()})
    names = ["[PAD]", "[UNK]", "[START]", *words, "[END]"]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[START] $A [END]", special_tokens=[("[START]", 2), ("[END]", len(names) - 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[START]",
        eos_token="[END]",
        model_max_length=CONTEXT,
    )


def configuration(vocabulary: int) -> dict[str, Any]:
    """open_clip_config.json: the model, and how a picture becomes its input."""
    return {
        "model_cfg": {
            "embed_dim": EMBED,
            "vision_cfg": {
                "image_size": draw.SIZE,
                "patch_size": 4,
                "width": WIDTH,
                "layers": LAYERS,
                "head_width": 32,
                "pool_type": "avg",
            },
            "text_cfg": {
                "hf_tokenizer_name": "tiny_clip",  # open_clip takes the tokenizer of this very folder
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "width": 64,
                "heads": 2,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


# ------------------------------------------------------------------------------------------------------- data


def batch_prompts(random: torch.Generator) -> list[str]:
    """Every clear and every vague prompt once, and random relations next to their opposites."""
    pairs = []
    for a, b, relation in torch.randint(2**31, (PAIRS, 3), generator=random).tolist():
        first = (a % 6, a // 6 % 4)
        # Another colour and another shape than the first thing's.
        second = ((first[0] + 1 + b % 5) % 6, (first[1] + 1 + b // 5 % 3) % 4)
        one, other = (f"a {list(language.COLOURS)[c]} {language.SHAPES[s]}" for c, s in (first, second))
        name = language.RELATIONS[relation % 4]
        pairs += [f"{one} {name} {other}", f"{one} {OPPOSITE[name]} {other}"]
    return [*language.prompts(), *pairs]


def caption(prompt: str, uniform: list[float]) -> str:
    """A true caption of a drawing of `prompt`: itself, mirrored, vaguer, or with a motion put on."""
    request = language.parse(prompt)
    thing = request.things[0]
    if request.kind in ("underspecified", "ambiguous"):
        return prompt
    vague = uniform[0] < VAGUE_SHARE
    if request.relation is not None:
        if vague:
            return "two shapes" if uniform[1] < 0.5 else "two objects"
        first, _, second = prompt.partition(f" {request.relation} ")
        return f"{second} {OPPOSITE[request.relation]} {first}" if uniform[1] < 0.5 else prompt
    if request.kind == "count":
        number = prompt.split()[0]
        left = [f"{number} {thing.shape}s", f"{number} shapes", f"{number} objects"]
        return left[int(uniform[1] * len(left))] if vague else prompt
    if vague:
        left = [f"a {thing.shape}", f"something {thing.colour}", f"a {thing.colour} object", "a shape"]
        left += (
            ["something"]
            if thing.size is None
            else [f"a {thing.size} shape", f"a {thing.colour} {thing.shape}"]
        )
        return left[int(uniform[1] * len(left))]
    if request.kind == "single" and uniform[0] > 1 - MOTION_SHARE:
        moves = [f"moving {d}{s}" for d in language.DIRECTIONS for s in ("", " slowly", " quickly")]
        moves += ["moving", *language.PATHS[1:]]
        return f"{prompt} {moves[int(uniform[1] * len(moves))]}"
    return prompt


def spoil(images: Tensor, random: torch.Generator) -> Tensor:
    """Half of the pictures a little blurred and noisy, as a policy draws them: [B, 3, Y, X] in [0, 1]."""
    count = len(images)
    which, blur, noise = torch.rand(3, count, 1, 1, 1, generator=random)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    made = images.lerp(soft, 0.8 * blur) + 0.06 * noise * torch.randn(images.shape, generator=random)
    return torch.where(which < 0.5, made.clamp(0, 1), images)


# --------------------------------------------------------------------------------------------------- training


def train(model: nn.Module, tokens: Any, state: State, args: argparse.Namespace) -> None:
    """AdamW, a cosine to zero, open_clip's symmetric cross-entropy; a learned temperature, at most 100."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    first = state.values["step"]
    if first:
        model.load_state_dict(state.values["model"])
        optimizer.load_state_dict(state.values["optimizer"])
    loss_of, losses, began = open_clip.ClipLoss(), [], time.monotonic()
    model.train()
    for step in range(first, args.steps):
        random = generator(args.seed, 1, step)
        prompts = batch_prompts(random)
        images = spoil(draw.render(prompts, random), random) * 2 - 1
        uniform = torch.rand(len(prompts), 2, generator=random).tolist()
        texts = tokens([caption(p, u) for p, u in zip(prompts, uniform, strict=True)])
        warm = min(1.0, (step + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        loss = loss_of(*model(images, texts))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            seconds = (time.monotonic() - began) / (step + 1 - first)
            mean = sum(losses) / len(losses)
            log.info(
                "step %d/%d loss %.4f scale %.1f, %.2f s/step",
                *(step + 1, args.steps, mean, model.logit_scale.exp().item(), seconds),
            )
            losses.clear()
            state.save(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    model.eval()


# -------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def scores(model: nn.Module, tokens: Any, images: Tensor, texts: list[str]) -> Tensor:
    """Cosine similarities [N images, T texts]; images [N, 3, Y, X] in [0, 1]."""
    seen = torch.cat([model.encode_image(part * 2 - 1, normalize=True) for part in images.split(256)])
    return seen @ model.encode_text(tokens(texts), normalize=True).T


def measure(model: nn.Module, tokens: Any, seed: int, copies: int = 8) -> dict[str, float]:
    """Retrieval among the clear prompts, agreement with the checker, scores of clear and vague prompts."""
    random = generator(seed, 9)
    clear = [p for kind in CLEAR for p in language.prompts(kinds=(kind,))]
    truth = clear * copies
    images = draw.render(truth, random)
    table = scores(model, tokens, images, clear)
    guess = [clear[i] for i in table.argmax(1).tolist()]
    made: dict[str, float] = {"top1": sum(g == t for g, t in zip(guess, truth, strict=True)) / len(truth)}
    for kind in CLEAR:
        rows = [(g, t) for g, t in zip(guess, truth, strict=True) if language.parse(t).kind == kind]
        made[f"top1_{kind}"] = sum(g == t for g, t in rows) / len(rows)

    def bare(prompt: str) -> str:
        return " ".join(word for word in prompt.split() if word not in language.SIZES)

    made["top1_but_for_size"] = sum(bare(g) == bare(t) for g, t in zip(guess, truth, strict=True)) / len(
        truth
    )
    asked = {"clear": clear, **{k: language.prompts(kinds=(k,)) for k in ("underspecified", "ambiguous")}}
    for name, prompts in asked.items():
        own = torch.stack([scores(model, tokens, draw.render([p] * 32, random), [p])[:, 0] for p in prompts])
        made[f"mean_{name}"] = own.mean().item()
        made[f"spread_{name}"] = own.std(dim=1).mean().item()
    return {**made, **agreement(model, tokens, clear, random, copies)}


def agreement(
    model: nn.Module, tokens: Any, clear: list[str], random: torch.Generator, copies: int
) -> dict[str, float]:
    """Against the checker, on drawings judged by their own prompt, one a word away, and any other."""
    from rlvis.data.world import checker

    drawn, asked = [], []
    for prompt in clear * copies:
        near = [p for p in neighbours(prompt) if p != prompt]
        pick = torch.randint(2**31, (2,), generator=random).tolist()
        drawn += [prompt, near[pick[0] % len(near)], clear[pick[1] % len(clear)]]
        asked += [prompt] * 3
    images = draw.render(drawn, random)
    names = sorted(set(asked))
    where = {name: i for i, name in enumerate(names)}
    table = scores(model, tokens, images, names)
    ours = table[torch.arange(len(asked)), torch.tensor([where[a] for a in asked])]
    judged = checker.judge(images, asked)
    hard, soft = judged.hard.bool(), judged.soft.double()
    rank = torch.tensor(spearmanr(ours, soft).statistic).item()
    near_pair = torch.arange(len(asked)) % 3 != 2  # right ones against those one word away
    return {
        "auroc_checker": auroc(ours, hard),
        "auroc_checker_one_word": auroc(ours[near_pair], hard[near_pair]),
        "spearman_checker_soft": rank,
    }


def neighbours(prompt: str) -> list[str]:
    """Prompts that differ in one word of the same class."""
    classes = (tuple(language.COLOURS), language.SHAPES, language.SIZES, tuple(language.COUNTS))
    classes += (tuple(f"{s}s" for s in language.SHAPES), ("above", "below"), ("left", "right"))
    words = prompt.split()
    return [
        " ".join([*words[:i], other, *words[i + 1 :]])
        for i, word in enumerate(words)
        for known in classes
        if word in known
        for other in known
        if other != word
    ]


def auroc(score: Tensor, label: Tensor) -> float:
    """Chance that a right one scores above a wrong one, ties as one half."""
    right, wrong = score[label], score[~label]
    above = (right[:, None] > wrong).double() + 0.5 * (right[:, None] == wrong).double()
    return above.mean().item()


# ---------------------------------------------------------------------------------------------------- writing

CARD = """# tiny_clip

A {count:.2f}M-parameter `open_clip.CLIP` that judges pictures of the shapes world (32 x 32 px): the learned
reward behind `reward=tiny_clip`. It opens in stock open_clip:

    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:rlvis/assets/tiny_clip")
    tokenizer = open_clip.get_tokenizer("local-dir:rlvis/assets/tiny_clip")

Vision: patches of 4 px, width {width}, {layers} layers. Text: one token a word, at most {context}, width 64,
2 layers. Trained with open_clip's contrastive loss on drawings of every still prompt (held-out compositions
too: it is a judge) and of random relations, half of them a little blurred and noisy. {vague:.0%} of the
captions leave something out ("a circle", "something red", "two shapes"), so it scores vague prompts lower
(below). Some captions claim a motion, which it learned to ignore: a clip is judged frame by frame. Words of
other worlds are all the same to it.

Made by `{command}` ({batch} pairs a step, {size:.1f} MB in float32).

| measured on fresh drawings | |
|---|---|
| right prompt first among the {clear} clear ones | {top1:.3f} |
| - single | {top1_single:.3f} |
| - size | {top1_size:.3f} |
| - count | {top1_count:.3f} |
| - relation | {top1_relation:.3f} |
| - where "small" and "large" do not matter (a free size may be either) | {top1_but_for_size:.3f} |
| AUROC against the checker's verdict, own and wrong prompts | {auroc_checker:.3f} |
| AUROC against the checker's verdict, own prompts and those one word away | {auroc_checker_one_word:.3f} |
| rank correlation with the checker's soft score | {spearman_checker_soft:.3f} |

Score of the own prompt (cosine), and its standard deviation among drawings of one prompt:

| prompts | mean | spread |
|---|---|---|
| clear | {mean_clear:.3f} | {spread_clear:.3f} |
| underspecified ("a circle") | {mean_underspecified:.3f} | {spread_underspecified:.3f} |
| ambiguous ("something") | {mean_ambiguous:.3f} | {spread_ambiguous:.3f} |
"""


def export(model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: dict[str, Any], out: Path) -> None:
    """A folder that open_clip opens as local-dir: configuration, weights, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="ascii")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / WEIGHTS)
    make_readable(out)


def vague_share(seed: int) -> float:
    """Of the captions of a batch, over 20 batches."""
    total = vague = 0
    for step in range(20):
        random = generator(seed, 1, step)
        prompts = batch_prompts(random)
        uniform = torch.rand(len(prompts), 2, generator=random).tolist()
        for prompt, u in zip(prompts, uniform, strict=True):
            kind = language.parse(prompt).kind
            left_out = caption(prompt, u) not in (prompt,) and kind in CLEAR and u[0] < VAGUE_SHARE
            vague += left_out or kind not in CLEAR
            total += 1
    return vague / total


def main() -> None:
    """Train, measure, write the folder and its card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "rlvis" / "assets" / "tiny_clip")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "pretrain_tiny_clip.pt")
    parser.add_argument("--resume", action="store_true", help="go on from the file --state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--measure-only", action="store_true", help="write the card of the weights in --out anew"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    config = configuration(len(tokenizer))
    torch.manual_seed(args.seed)
    model = open_clip.CLIP(**json.loads(json.dumps(config["model_cfg"]))).eval()
    with tempfile.TemporaryDirectory() as folder:
        export(model, tokenizer, config, Path(folder))
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    if args.measure_only:
        model.load_state_dict(load_file(args.out / WEIGHTS))
    else:
        settings = {"seed": args.seed, "steps": args.steps, "lr": args.lr}
        train(model, tokens, State(args.state, settings, args.resume, step=0), args)
        export(model, tokenizer, config, args.out)
    made = measure(model, tokens, args.seed)
    log.info("%s", made)
    (args.out / "README.md").write_text(card(made, model, args), encoding="ascii")


def card(made: dict[str, float], model: nn.Module, args: argparse.Namespace) -> str:
    """README.md of the folder."""
    return CARD.format(
        **made,
        count=sum(p.numel() for p in model.parameters()) / 1e6,
        width=WIDTH,
        layers=LAYERS,
        context=CONTEXT,
        vague=vague_share(args.seed),
        command=f"python scripts/pretrain_tiny_clip.py --seed {args.seed} --steps {args.steps}",
        batch=len(batch_prompts(generator(args.seed, 1, 0))),
        clear=len(language.prompts(kinds=CLEAR)),
        size=(args.out / WEIGHTS).stat().st_size / 1e6,
    )


if __name__ == "__main__":
    main()
