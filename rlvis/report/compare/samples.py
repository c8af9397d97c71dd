"""Pictures of the arms side by side: held-out prompts from the same noise, else the last sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvis.evaluation.pictures import kept
from rlvis.evaluation.suites import SCORE
from rlvis.observe import gallery
from rlvis.report import heldout, pictures
from rlvis.report.compare.arms import Member
from rlvis.report.compare.measured import Several
from rlvis.report.heldout import PerPrompt
from rlvis.report.panels.base import TEXT, Panel, short
from rlvis.report.panels.gallery import Block, Card, Row

PROMPTS, RUNS = 6, 12  # of the samples side by side
BUDGET = 3_000_000  # bytes of base64
BEFORE = "before training"


@dataclass(frozen=True)
class _Column:
    """What is shown of an arm: its pictures and what its first samples scored, by held-out prompt."""

    label: str
    files: dict[int, Path]
    scores: PerPrompt


def samples(several: Several) -> Panel | None:
    """What runs of all arms kept of held-out prompts, else their last sheets."""
    return held_out(several) or sheets(several)


def held_out(several: Several) -> Panel | None:
    """Held-out prompts by arms at their last common evaluation: those on which the arms differ most, and some
    spread over all; None where fewer than two arms kept pictures of the same prompts.
    """
    measured = several.measured
    if measured is None or measured.step is None:
        return None
    runs = _one_of_each(several, measured.members)
    label = {m.label: arm.label for arm in several.arms for m in arm.members}
    columns = [_column(member, measured.step, label[member.label]) for member in runs]
    columns = [column for column in columns if column.files and column.scores]
    if len(columns) < 2:
        return None
    first = int(runs[0].evaluations.entries[0]["step"])
    if first < measured.step:  # of the base run alone: before training all are the same policy
        columns.insert(0, _column(runs[0], first, BEFORE if first == 0 else f"after {first} steps"))
    ours = columns[-len(runs) :]
    shared = [key for key in ours[0].scores if all(key in c.scores and key[0] in c.files for c in ours)]
    if not shared:
        return None
    by_gap = sorted(shared, key=lambda key: -_gap(ours, key))
    apart = [key for key in by_gap[:PROMPTS] if _gap(ours, key) > 0]
    others = [key for key in shared if key not in apart]
    even = [others[i] for i in pictures.spread(len(others), PROMPTS)] if others else []
    share = BUDGET * several.room / (2 * PROMPTS * len(columns))
    parts = [
        Panel(title, "blocks", [Block(None, [_row(columns, key, share) for key in keys])])
        for title, keys in (("Where the arms differ most", apart), ("Spread over the others", even))
        if keys
    ]
    note = (
        f"The first sample of held-out prompts after {measured.step} steps, from the same noise in every "
        f"run, with its score; one run of each arm: {', '.join(run.label for run in runs)}."
    )
    return Panel("", "parts", parts, note)


def sheets(several: Several) -> Panel | None:
    """The last sheet of each run, prompt by prompt; None where none drew any."""
    drawn = [member for member in several.members if member.run.samples]
    if not drawn:
        return None
    if len(drawn) > RUNS:  # the first run of each arm first
        ranked = sorted(drawn, key=lambda m: any(m in arm.members[1:] for arm in several.arms))
        drawn = [member for member in drawn if member in ranked[:RUNS]]
    tiles: dict[str, list[Card]] = {}
    problems = []
    share = BUDGET * several.room / (len(drawn) * PROMPTS)
    for member in drawn:
        step, path = member.run.samples[-1]
        try:
            texts, boxes = gallery.captions(path)[:PROMPTS], gallery.boxes(path)[:PROMPTS]
            if not texts or len(texts) != len(boxes):
                problems.append(f"The sheets of {member.label} do not say where their pictures are.")
                continue
            for text, tile in zip(texts, pictures.cut(pictures.load(path), boxes), strict=True):
                card = Card(pictures.still(tile, share, 160), "", member.label, f"step {step}")
                tiles.setdefault(text, []).append(card)
        except pictures.UNREADABLE:
            problems.append(f"The last sheet of {member.label} cannot be read.")
    rows = [Row(short(text, 200), cards) for text, cards in list(tiles.items())[: 2 * PROMPTS]]
    if len(drawn) < sum(bool(member.run.samples) for member in several.members):
        problems.append(f"{len(drawn)} of {len(several.members)} runs are shown.")
    return Panel("", "blocks", [Block(None, rows)] if rows else [], " ".join(problems))


def _one_of_each(several: Several, found: Sequence[Member]) -> list[Member]:
    """A run of each arm, the base first, of a seed that most arms have."""
    arms = [
        each for arm in (several.base, *several.others) if (each := [m for m in arm.members if m in found])
    ]
    seeds = [member.seed for each in arms for member in each]
    often = max(seeds, key=lambda seed: sum(any(m.seed == seed for m in each) for each in arms), default="")
    return [next((m for m in each if m.seed == often), each[0]) for each in arms][:RUNS]


def _column(member: Member, step: int, label: str) -> _Column:
    table = member.evaluations.table(step)
    if table is None:
        return _Column(label, {}, {})
    column = SCORE if SCORE in table else next(iter(heldout.measures(table).values()), None)
    scores = heldout.per_prompt([table[table["sample"] == 0]], column) if column else {}
    return _Column(label, kept(member.evaluations.folder, step), scores)


def _gap(columns: Sequence[_Column], key: tuple[int, str]) -> float:
    """How far the arms are apart on a prompt."""
    scores = [column.scores[key] for column in columns]
    return max(scores) - min(scores)


def _row(columns: Sequence[_Column], key: tuple[int, str], share: float) -> Row:
    """The pictures of a prompt, a column each."""
    cards = []
    for column in columns:
        score = f"{column.scores[key]:.3g}" if key in column.scores else ""
        file = column.files.get(key[0])
        if file is None:
            continue
        try:
            shown, why = (
                pictures.file(file, share, 160),
                f"{file.name} is left out, the page has no room for it",
            )
        except pictures.UNREADABLE:
            shown, why = None, f"{file.name} cannot be read"
        cards.append(Card(shown, "", column.label, score, why))
    return Row(short(key[1], TEXT), cards)
