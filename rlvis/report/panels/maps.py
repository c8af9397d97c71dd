"""Perceptual maps: how they spread the advantage, and where they look, beside their samples."""

from __future__ import annotations

from dataclasses import replace

from rlvis.report import extremes, pictures, plots
from rlvis.report.folder import RunFolder, sheets
from rlvis.report.panels.base import Context, Drawing, Panel, drawing, named
from rlvis.report.panels.gallery import Block, Row, cards, left_out
from rlvis.report.panels.samples import evolve
from rlvis.report.pictures import Budget, Shown

STEPS = 4
MOST = 8  # samples of a step
BUDGET = 1_400_000  # bytes of base64, half of it for each kind of picture
FILMS = 2  # of the sheets' clips


def maps(context: Context) -> Panel | None:
    """Statistics of the maps, or None for a run without any."""
    run = context.run
    if not (any(key.startswith("map/") for key in run.keys) or sheets(run.path / "maps")):
        return None
    return Panel("", "figures", _figures(run))


def overlays(context: Context) -> Panel | None:
    """Samples of a training step beside their maps; None where none were kept."""
    steps, _ = extremes.read(context.run.path)
    steps = [step for step in steps if step.maps]
    if not steps:
        return None
    chosen = [steps[i] for i in pictures.spread(len(steps), STEPS)]
    budget = Budget(BUDGET / 2 * context.room)
    share = budget.left / sum(len(step.maps[:MOST]) for step in chosen)
    blocks = []
    for step in reversed(chosen):
        overlaid = [replace(sample, file=sample.map) for sample in step.maps[:MOST] if sample.map]
        wide = not any(
            sample.file.suffix in pictures.CLIPS for sample in overlaid
        )  # clips: from top to bottom
        blocks.append(Block(step.step, [Row("", cards(overlaid, budget, share, 388 if wide else 160))]))
    note = (
        "Sample, map, both. Bright: where the advantage goes. Each map is scaled by its own largest value. "
        "The best and the worst samples of the step."
    )
    return Panel("Trained samples and their maps", "blocks", blocks, " ".join([note, *left_out(budget)]))


def fixed(context: Context) -> Panel | None:
    """The maps of the fixed prompts over the run; None where there are no such sheets."""
    drawn = sheets(context.run.path / "maps")
    if not drawn:
        return None
    shown, problems = evolve(drawn, BUDGET / 2 * context.room, steps=8, side=384)
    note = "Sample, its map on the latent grid, and both; for clips from top to bottom."
    return Panel("Fixed prompts: sample, map, both", "evolution", shown, " ".join([note, *problems]))


def films(context: Context) -> Panel | None:
    """The maps of the fixed prompts as clips; None for stills."""
    clips = [(step, path.with_suffix(".mp4")) for step, path in sheets(context.run.path / "maps")]
    clips = [(step, path) for step, path in clips if path.is_file()]
    if not clips:
        return None
    budget, shown, problems = Budget(BUDGET / 2 * context.room), list[tuple[str, Shown]](), []
    for i in reversed(pictures.spread(len(clips), FILMS)):
        step, path = clips[i]
        try:
            film = pictures.file(path, budget.left, 540)
        except pictures.UNREADABLE:
            problems.append(f"{path.name} cannot be read.")
            continue
        if film is None:
            budget.left_out += 1
        elif kept := budget.take(film):
            shown.append((f"Step {step}", kept))
    note = "The first clips of the sheets side by side: sample, map, both."
    return Panel("Clips", "films", shown, " ".join([note, *problems, *left_out(budget)]))


def _figures(run: RunFolder) -> list[Drawing]:
    entropy = {"entropy": run.series("map/entropy")}
    level = named(run, {"largest": "map/max", "mean": "map/mean"})
    return [
        drawing(
            "Entropy of the maps",
            lambda: plots.lines("map-entropy", entropy, ylabel="share of a uniform map's"),
            "1: the advantage is spread evenly, as without a map.",
        ),
        drawing(
            "Level of the maps",
            lambda: plots.lines("map-level", level, ylabel="map"),
            "The mean is what maps scale the loss by.",
        ),
    ]
