"""The shapes world as a source of prompts: stills, clips, and clips that start from a given frame.

A prompt's metadata say what it asks for, so that a reward and an evaluation need not parse it. The condition
frame of a prompt is drawn from its text alone: the same in training and evaluation, in every selection of
kinds and in every order, so that two runs can be compared prompt by prompt.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.data.world import draw, language
from rlvis.findings import Finding, mistake

STILL, VIDEO, IMAGE_TO_VIDEO = "shapes", "shapes_video", "shapes_i2v"
SOURCES = (STILL, VIDEO, IMAGE_TO_VIDEO)
FRAME = (draw.SIZE, draw.SIZE)  # height and width that the world is drawn at
UNCLEAR = ("underspecified", "ambiguous")


def known_kinds(source: str) -> tuple[str, ...]:
    """The kinds of prompts that a source has."""
    return language.STILL_KINDS if source == STILL else language.CLIP_KINDS


def kind_errors(source: str, kinds: Sequence[str], key: str) -> Iterator[Finding]:
    """What is wrong with a selection of kinds. key: the option that makes it, such as data.kinds."""
    known = known_kinds(source)
    wrong = [kind for kind in kinds if kind not in known]
    if wrong or not kinds:
        near = difflib.get_close_matches(wrong[0], known, 1) if wrong else []
        yield mistake(
            f"{key}=[{','.join(kinds)}]: data.source={source} has the kinds {', '.join(known)}",
            f"{key}=[{near[0] if near else known[0]}], or {key}=null for all",
        )


def prompts(source: str, split: str, kinds: Sequence[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Prompts of a source and their metadata: kind, clear (whether the prompt says all that is judged), and
    what it names, as JSON values: things, relation, motion.

    Raises ValueError for another split or kind.
    """
    for error in () if kinds is None else kind_errors(source, kinds, "data.kinds"):
        raise ValueError(str(error))
    chosen = None if kinds is None else tuple(kinds)
    for text in language.prompts(split, clips=source != STILL, kinds=chosen):
        yield text, metadata(language.parse(text))


def metadata(request: language.Request) -> dict[str, Any]:
    """What a request names, as JSON values; what it leaves open is left out."""
    values: dict[str, Any] = {"kind": request.kind, "clear": request.kind not in UNCLEAR}
    values["things"] = [_named(thing) for thing in request.things]
    if request.relation is not None:
        values["relation"] = request.relation
    if request.motion is not None:
        values["motion"] = _named(request.motion)
    return values


def loader(texts: Sequence[str], size: tuple[int, int]) -> Callable[[Sequence[int]], Tensor]:
    """What makes the condition frames of prompts by position; size: (height, width) in pixels."""
    return lambda index: first_frames([texts[i] for i in index], size)


def first_frames(texts: Sequence[str], size: tuple[int, int] = FRAME) -> Tensor:
    """The condition frames of clip prompts: uint8 [P, 3, Y, X], each the first of a clip of its prompt.

    size: (Y, X); a frame that is no square is cut around its centre from one that covers it.
    Raises ValueError for a prompt of another world.
    """
    side, (height, width) = max(size), size
    frames = [
        draw.render_clips([text], torch.Generator().manual_seed(_seed(text)), size=side)[0, 0]
        for text in texts
    ]
    top, left = (side - height) // 2, (side - width) // 2
    cut = torch.stack(frames)[..., top : top + height, left : left + width]
    return (cut * 255).round().to(torch.uint8)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"first frame: {text}".encode()).digest()[:8], "big") >> 1


def _named(part: language.Thing | language.Motion) -> dict[str, str]:
    return {key: value for key, value in dataclasses.asdict(part).items() if value is not None}
