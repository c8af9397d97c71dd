"""The same prompts from the same noise over the run: a slider moves their pictures through the steps.

Sheets know where their pictures are, so they are cut and every prompt gets pictures of its own; a sheet that
does not know is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvis.observe import gallery
from rlvis.report import pictures
from rlvis.report.panels.base import TEXT, Context, Panel, short
from rlvis.report.pictures import Shown

STEPS = 24  # steps of the slider
PROMPTS = 16
BUDGET = 3_000_000  # bytes of base64


@dataclass(frozen=True)
class Evolution:
    """One fixed prompt, or one sheet: its caption and its picture at each step."""

    text: str
    frames: list[tuple[int, Shown]]

    @property
    def wide(self) -> bool:
        """Whether before and after belong below each other."""
        return self.frames[0][1].width > 1.2 * self.frames[0][1].height


def samples(context: Context) -> Panel:
    """Fixed prompts through the steps."""
    sheets = context.run.samples
    if not sheets:
        note = "No sample sheets were written (tracker.samples_every=0, or the run ended before the first)."
        return Panel("", "evolution", [], note)
    prompts, problems = evolve(sheets, BUDGET * context.room)
    shown = max((len(each.frames) for each in prompts), default=0)
    if shown < len(sheets) and not problems:
        problems.append(f"{shown} of {len(sheets)} steps are shown; all sheets are in samples/.")
    return Panel("", "evolution", prompts, " ".join(problems))


def evolve(
    sheets: Sequence[tuple[int, Path]],
    budget: float,
    steps: int = STEPS,
    side: int = 256,
    most: int = PROMPTS,
) -> tuple[list[Evolution], list[str]]:
    """At most `most` prompts through at most `steps` steps, first and last among them, and sentences about
    what is not shown.

    sheets: (step, file) by step. Where a sheet does not say where its pictures are, sheets are shown whole.
    """
    problems: list[str] = []
    notes = [note for i in pictures.spread(len(sheets), steps) if (note := _note(*sheets[i], problems))]
    captions = notes[-1].captions if notes else []
    cut = all(note.captions == captions and len(note.boxes) == len(captions) > 0 for note in notes)
    kept = captions[:most] if cut else ["; ".join(short(caption, 80) for caption in captions[:most])]
    if cut and len(kept) < len(captions):
        problems.append(f"{len(kept)} of {len(captions)} prompts are shown.")
    share = budget / max(1, len(notes) * len(kept))
    frames: list[list[tuple[int, Shown]]] = [[] for _ in kept]
    for note in notes:
        try:
            sheet = pictures.load(note.path)
            tiles = pictures.cut(sheet, note.boxes[: len(kept)]) if cut else [sheet]
        except pictures.UNREADABLE as error:
            problems.append(_unreadable(note.step, note.path, error))
            continue
        for shown, tile in zip(frames, tiles, strict=True):
            wide = tile.width > 2 * side
            shown.append(
                (note.step, pictures.still(tile, share, (3 * side if wide else side) if cut else 1024))
            )
    prompts = [Evolution(short(text, TEXT), shown) for text, shown in zip(kept, frames, strict=True) if shown]
    return prompts, problems


@dataclass(frozen=True)
class _Note:
    """What a sheet says of itself."""

    step: int
    path: Path
    captions: list[str]
    boxes: list[tuple[int, int, int, int]]


def _note(step: int, path: Path, problems: list[str]) -> _Note | None:
    try:
        return _Note(step, path, gallery.captions(path), gallery.boxes(path))
    except pictures.UNREADABLE as error:
        problems.append(_unreadable(step, path, error))
        return None


def _unreadable(step: int, path: Path, error: Exception) -> str:
    return f"The sample sheet of step {step} ({path.name}) cannot be read: {type(error).__name__}."
