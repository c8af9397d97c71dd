"""What the judge learns from: captioned drawings.

Over a quarter of the captions leave attributes out ("something red" for a red circle), so that the judge is
unsure of vague prompts as one trained on captions from the web is; and a batch holds every clear prompt once,
so that only vague captions meet themselves as negatives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining.state import generator
from rlvis.data.world import draw, language

CLEAR = ("single", "size", "count", "relation")
PAIRS = 28  # random relations of a batch, each next to its opposite
VAGUE_SHARE = 0.22  # captions of clear drawings that leave something out; the vague prompts come on top
MOTION_SHARE = 0.05  # captions of single drawings that also claim a motion, which no still frame can deny
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


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


def batch(seed: int, step: int) -> tuple[Tensor, list[str]]:
    """Drawings [B, 3, Y, X] in [0, 1] of a step, and their captions."""
    random = generator(seed, 1, step)
    prompts = batch_prompts(random)
    images = spoil(draw.render(prompts, random), random)
    uniform = torch.rand(len(prompts), 2, generator=random).tolist()
    return images, [caption(p, u) for p, u in zip(prompts, uniform, strict=True)]


def caption(prompt: str, uniform: list[float]) -> str:
    """A true caption of a drawing of `prompt`: itself, mirrored, vaguer, or with a motion put on."""
    request = language.parse(prompt)
    vague, choice = uniform[0] < VAGUE_SHARE, uniform[1]
    if request.kind in ("underspecified", "ambiguous"):
        return prompt
    if request.relation is not None and not vague:
        first, _, second = prompt.partition(f" {request.relation} ")
        return f"{second} {OPPOSITE[request.relation]} {first}" if choice < 0.5 else prompt
    if vague:
        texts = list(vaguer(prompt))
        return texts[int(choice * len(texts))]
    if request.kind == "single" and uniform[0] > 1 - MOTION_SHARE:
        moves = [f"moving {d}{s}" for d in language.DIRECTIONS for s in ("", " slowly", " quickly")]
        moves += ["moving", *language.PATHS[1:]]
        return f"{prompt} {moves[int(choice * len(moves))]}"
    return prompt


def vaguer(prompt: str) -> Iterator[str]:
    """What one may say of the same drawing in fewer words."""
    request = language.parse(prompt)
    thing = request.things[0]
    if request.relation is not None:
        yield from ("two shapes", "two objects")
    elif request.kind == "count":
        number = prompt.split()[0]
        yield from (f"{number} {thing.shape}s", f"{number} shapes", f"{number} objects")
    else:
        yield from (f"a {thing.shape}", f"something {thing.colour}", f"a {thing.colour} object", "a shape")
        if thing.size is None:
            yield "something"
        else:
            yield from (f"a {thing.size} shape", f"a {thing.colour} {thing.shape}")


def spoil(images: Tensor, random: torch.Generator) -> Tensor:
    """Half of the pictures a little blurred and noisy, as a policy draws them: [B, 3, Y, X] in [0, 1]."""
    count = len(images)
    which, blur, noise = torch.rand(3, count, 1, 1, 1, generator=random)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    grainy = images.lerp(soft, 0.8 * blur) + 0.06 * noise * torch.randn(images.shape, generator=random)
    return torch.where(which < 0.5, grainy.clamp(0, 1), images)


def vague_share(seed: int) -> float:
    """Of the captions of a batch, over 20 batches."""
    total = vague = 0
    for step in range(20):
        random = generator(seed, 1, step)
        prompts = batch_prompts(random)
        uniform = torch.rand(len(prompts), 2, generator=random).tolist()
        for prompt, u in zip(prompts, uniform, strict=True):
            clear = language.parse(prompt).kind in CLEAR
            vague += not clear or (u[0] < VAGUE_SHARE and caption(prompt, u) != prompt)
            total += 1
    return vague / total
