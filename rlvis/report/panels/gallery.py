"""Best and worst samples of chosen steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvis.report import extremes, pictures
from rlvis.report.extremes import Sample
from rlvis.report.panels.base import TEXT, Context, Panel, num, short
from rlvis.report.pictures import Budget, Shown

log = logging.getLogger(__name__)

STEPS = 6
MOST = 8  # samples of a row
BUDGET = 1_300_000  # bytes of base64
CLIP = 250_000  # bytes of one clip, while the budget lasts
TERMS = 6  # reward terms of a caption


@dataclass(frozen=True)
class Card:
    """A picture with its numbers; shown is None where it cannot be read, `why` says so."""

    shown: Shown | None
    text: str
    value: str
    details: str
    why: str = ""


@dataclass(frozen=True)
class Row:
    """Cards under a heading, with a sentence and numbers about all of them."""

    title: str
    cards: list[Card]
    note: str = ""
    small: bool = False


@dataclass(frozen=True)
class Block:
    """What is shown of one step; None where steps are no matter."""

    step: int | None
    rows: list[Row]


def gallery(context: Context) -> Panel | None:
    """Best and worst samples; None for a run that kept none."""
    steps, problems = extremes.read(context.run.path)
    steps = [step for step in steps if step.best or step.worst]
    if not steps and not problems:
        return None
    chosen = [steps[i] for i in pictures.spread(len(steps), STEPS)] if steps else []
    budget = Budget(BUDGET * context.room)
    count = sum(len(step.best[:MOST]) + len(step.worst[:MOST]) for step in chosen)
    share = budget.left / max(1, count)
    blocks = [
        Block(
            step.step,
            [
                Row("Best samples", cards(step.best[:MOST], budget, share)),
                Row("Worst samples", cards(step.worst[:MOST], budget, share)),
            ],
        )
        for step in reversed(chosen)
    ]
    if len(chosen) < len(steps):
        problems.append(f"{len(chosen)} of {len(steps)} steps are shown; all are in groups/.")
    return Panel("", "blocks", blocks, " ".join([*problems, *left_out(budget)]))


def cards(samples: Sequence[Sample], budget: Budget, share: float, side: int = 160) -> list[Card]:
    """Samples with their pictures, within the budget; share: bytes that one of them may take."""
    return [_card(sample, budget, share, side) for sample in samples]


def left_out(budget: Budget) -> list[str]:
    """A sentence about pictures that found no room."""
    if not budget.left_out:
        return []
    return [f"Pictures left out to keep the page small: {budget.left_out}; they are in the run folder."]


def _card(sample: Sample, budget: Budget, share: float, side: int) -> Card:
    terms = sorted(sample.terms.items())
    details = ", ".join(f"{short(name, 24)} {num(value)}" for name, value in terms[:TERMS])
    if len(terms) > TERMS:
        details += f" and {len(terms) - TERMS} more"
    value = "invalid" if sample.reward is None else num(sample.reward)
    where = f"prompt {sample.prompt}, sample {sample.sample}"
    details = f"{where}; {details}" if len(terms) > 1 else where
    shown, why = _shown(sample.file, budget, share, side)
    return Card(shown, short(sample.text, TEXT), value, details, why)


def _shown(path: Path, budget: Budget, share: float, side: int) -> tuple[Shown | None, str]:
    try:
        picture = pictures.file(path, share if path.suffix not in pictures.CLIPS else max(share, CLIP), side)
    except pictures.UNREADABLE as error:
        log.warning("%s cannot be shown: %s", path, error)
        return None, f"{path.name} cannot be read"
    if picture is None:
        budget.left_out += 1
        return None, f"{path.name} is left out, the page has no room for it"
    shown = budget.take(picture)
    return shown, "" if shown else f"{path.name} is left out, the page has no room for it"
