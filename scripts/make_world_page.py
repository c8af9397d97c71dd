"""Write docs/world.md and its pictures: what the shapes world draws, and what training does to tiny policies.

Everything on the page comes from the embedded assets and from finished runs; numbers come from the
checker or from benchmarks/results.

    OMP_NUM_THREADS=1 python scripts/make_world_page.py \\
        --image outputs/run/DATE --video outputs/tiny_video/DATE --i2v outputs/tiny_i2v/DATE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from rlvis.compose.command import compose
from rlvis.data import sampler
from rlvis.data.prompts import load_prompts
from rlvis.data.world import checker, defects, draw, language, motion
from rlvis.models.load import load_policy
from rlvis.observe import gallery, video
from rlvis.records import PromptBatch
from rlvis.rollout.generate import generate

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "world.md"
PICTURES = PAGE.parent / "world"
STEPS = 28  # of the ODE sampler
FPS = 6.0
SHOWN = {  # a kind's example prompts
    "single": ("a red circle", "a cyan ring"),
    "size": ("a small blue square", "a large yellow triangle"),
    "count": ("two green rings", "three purple circles"),
    "relation": ("a red circle left of a green square", "a green circle above a yellow ring"),
    "underspecified": ("a triangle", "two squares"),
    "ambiguous": ("a shape", "something red"),
}
DEFECTIVE = {
    "image": ["model=tiny_image_defect"],
    "video": ["experiment=tiny_video", "model=tiny_video_defect"],
}
CLIPS_SHOWN = (
    "a red circle moving left",
    "a cyan ring moving up quickly",
    "a blue square circling",
    "it moves",
)


def main() -> None:
    args = arguments()
    PICTURES.mkdir(parents=True, exist_ok=True)
    parts = [HEAD, drawings(), reading()]
    parts.append(before_after("image", "Pictures", [], args.image))
    parts.append(before_after("video", "Clips", ["experiment=tiny_video"], args.video))
    parts.append(before_after("i2v", "Clips from a first frame", ["experiment=tiny_i2v"], args.i2v))
    parts += [
        spoiled(name, *words)
        for name, words in DEFECTIVE.items()
        if (ROOT / "rlvis" / "assets" / f"tiny_{name}_defect").is_dir()
    ]
    parts.append(results())
    PAGE.write_text("\n".join(part for part in parts if part), encoding="utf-8")


HEAD = """\
# The shapes world

Coloured shapes on grey, drawn by closed forms in torch: the world in which every part of rlvis can be tried
on a laptop, with the truth about every sample known. Six colours, four shapes, sizes, counts, relations; in
clips a direction, a speed, a path. `data=shapes` gives prompts of pictures, `data=shapes_video` of clips, and
`data=shapes_i2v` clips that go on from a given first frame. This page was written by
`scripts/make_world_page.py`.
"""


def drawings() -> str:
    """Examples of every kind of prompt."""
    random = torch.Generator().manual_seed(0)
    texts = [text for pair in SHOWN.values() for text in pair]
    gallery.sheet(_bytes(draw.render(texts, random)), texts, PICTURES / "drawings.png", columns=6)
    clips = _bytes(draw.render_clips(CLIPS_SHOWN, random))
    gallery.sheet(clips, CLIPS_SHOWN, PICTURES / "clips.png", columns=1, frames=draw.FRAMES, min_side=64)
    rows = []
    for clip, known in ((False, language.STILL_KINDS), (True, language.CLIP_KINDS)):
        for kind in known:
            splits = {s: language.prompts(s, clips=clip, kinds=(kind,)) for s in language.SPLITS}
            example = (splits["train"] or splits["heldout"])[-1]
            what = "clip" if clip else "picture"
            rows.append(
                f"| {what} | `{kind}` | {example} | {len(splits['train'])} | {len(splits['heldout'])} |"
            )
    table = "\n".join(rows)
    return f"""
## Prompts

![examples of all kinds](world/drawings.png)
![clips](world/clips.png)

| | kind | example | train | held out |
|---|---|---|---|---|
{table}

Held-out prompts name a composition of colour and shape that no training prompt names. `data.kinds` chooses
kinds; `underspecified` and `ambiguous` prompts leave open what a reward might ask for, which is what studies
of trust need.
"""


def reading(per_prompt: int = 4) -> str:
    """How often the checker is right on drawings, and what it says of drawings of another prompt."""
    rows = []
    for clip, known in ((False, language.STILL_KINDS[:4]), (True, language.CLIP_KINDS[:3])):
        for kind in known:
            texts = language.prompts(clips=clip, kinds=(kind,)) * per_prompt
            random = torch.Generator().manual_seed(1)
            other = [texts[i] for i in torch.randperm(len(texts), generator=random).tolist()]
            if clip:
                images = draw.render_clips(texts, random)
                right, wrong = motion.judge_clips(images, texts), motion.judge_clips(images, other)
            else:
                images = draw.render(texts, random)
                right, wrong = checker.judge(images, texts), checker.judge(images, other)
            numbers = [
                j.mean().item() for j in (right.hard.double(), right.soft, wrong.hard.double(), wrong.soft)
            ]
            rows.append(f"| `{kind}` | " + " | ".join(f"{n:.3f}" for n in numbers) + f" | {len(texts)} |")
    table = "\n".join(rows)
    return f"""
## The checker

`rlvis.data.world.checker` reads a picture back: regions of colour, their shapes by overlap with templates,
sizes, counts and places; `motion` follows the thing through a clip. Its soft score (`reward=checker`) is the
mean of how well each thing that the prompt asks for is met, its hard verdict says that all of them are.

| kind | right, own drawing | score | right, another's | score | n |
|---|---|---|---|---|---|
{table}
"""


def before_after(name: str, title: str, words: list[str], run: Path | None) -> str:
    """Held-out prompts drawn by the base and by the trained policy, from equal noise."""
    if run is None:
        return ""
    media, batch = {}, None
    for label, more in (("base", []), ("trained", [f"model.path={run / 'model'}"])):
        media[label], batch = samples([*words, *more, "data.split=heldout"], 8)
    assert batch is not None
    texts = batch.texts
    lines = [f"\n## {title}: base and trained", "", "Held-out prompts, equal noise above and below.", ""]
    if media["base"].shape[1] == 1:
        both = torch.cat([media["base"], media["trained"]])
        captions = [f"base: {t}" for t in texts] + [f"trained: {t}" for t in texts]
        gallery.sheet(both, captions, PICTURES / f"{name}.png", columns=len(texts))
        return "\n".join([*lines, f"![pictures](world/{name}.png)", ""])
    rows = []
    for i, text in enumerate(texts[:6]):
        cells = []
        for label, clips in media.items():
            file = f"{name}_{label}_{i}"
            video.write(clips[i], PICTURES / f"{file}.gif", FPS, min_side=96)
            video.write(clips[i], PICTURES / f"{file}.mp4", FPS)
            cells.append(f"[![{text}](world/{file}.gif)](world/{file}.mp4)")
        if batch.frames is not None:
            gallery.sheet(batch.frames[i : i + 1], [""], PICTURES / f"{name}_frame_{i}.png", min_side=96)
            cells.insert(0, f"![first frame](world/{name}_frame_{i}.png)")
        rows.append(f"| {text} | " + " | ".join(cells) + " |")
    first = "| first frame " if batch.frames is not None else ""
    head = [f"| prompt {first}| base | trained |", "|---|---|---|" + ("---|" if first else "")]
    return "\n".join([*lines, *head, *rows, ""])


def spoiled(name: str, *words: str) -> str:
    """Samples of a defective base, and where the defect is."""
    images, batch = samples([*words], 8)
    marks = defects.mask(images.float() / 255)[:, :, None].expand_as(images.float())
    shown = torch.cat([images, (marks * 255).to(torch.uint8)])
    captions = [*batch.texts, *["its defect"] * len(batch.texts)]
    columns = len(batch.texts) if images.shape[1] == 1 else 2
    gallery.sheet(shown, captions, PICTURES / f"{name}_defect.png", columns=columns, min_side=64)
    picture = f"![samples](world/{name}_defect.png)"
    return f"\n## The defective {name} base\n\n`{words[-1]}`, for studies of maps.\n\n{picture}\n"


def results() -> str:
    """The tables of benchmarks/results/defaults*.json, if they were measured."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("defaults_*.json")):
        result = json.loads(path.read_text())
        for measure in ("accuracy", "score"):
            rise = result["rise"][measure]
            interval = "one seed"
            if rise["low"] is not None:
                interval = f"{rise['low']:+.3f} .. {rise['high']:+.3f}"
            rows.append(
                f"| {result['name']} | {measure} | {result['base'][measure]:.3f} | {rise['mean']:+.3f} | "
                f"{interval} | {result['seconds']:.0f} |"
            )
    if not rows:
        return ""
    return "\n".join(
        [
            "\n## What the defaults reach",
            "",
            "Paired over seeds, on held-out prompts (`python -m benchmarks.defaults`).",
            "",
            "| run | measure | base | rise | 95 % | seconds of RL |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def samples(words: list[str], count: int) -> tuple[Tensor, PromptBatch]:
    """Frames uint8 [count, M, 3, Y, X] of prompts spread over a configuration's data, and these."""
    config = compose([*words, "engine.device=cpu"]).typed()
    prompts = load_prompts(config.data)
    policy = load_policy(config.model, "cpu")
    index = [i * len(prompts) // count for i in range(count)]
    batch = sampler.select(prompts, index)
    batch = batch.replace(embeds=policy.encode(batch.texts, batch.frames)[0])
    schedule = policy.schedule(STEPS, config.sampler.shift, config.sampler.grid)
    return generate(policy, policy.module, batch, schedule, seed=7, micro_batch=count), batch


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write docs/world.md from the assets and from finished runs."
    )
    for name in ("image", "video", "i2v"):
        parser.add_argument(f"--{name}", type=Path, help=f"folder of a finished {name} run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
