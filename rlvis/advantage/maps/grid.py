"""How many patches a backbone gets of a frame: too few find nothing, too many cost without end."""

from __future__ import annotations

import math

from rlvis.findings import Finding, mistake

LEAST = 4  # patches along each side: maps of fewer find things no better than chance (docs/vipo.md, Sizes)
ENOUGH = 8  # below which many things are missed
MOST = 4096  # tokens of a frame: attention grows with their square


def cells(height: int, width: int, patch: int, enlarge: float) -> tuple[int, int]:
    """Whole patches of frames of that size, enlarged."""
    return int(height * enlarge / patch + 1e-9), int(width * enlarge / patch + 1e-9)


def capped(grid: tuple[int, int]) -> tuple[int, int]:
    """The grid, or the largest of about its shape that has at most MOST cells."""
    high, wide = grid
    if high * wide <= MOST:
        return grid
    scale = math.sqrt(MOST / (high * wide))
    short = max(LEAST, int(min(grid) * scale + 1e-9))  # a ribbon keeps its few rows
    long = min(int(max(grid) * scale + 1e-9), MOST // short)
    return (short, long) if high <= wide else (long, short)


def helpful(height: int, width: int, patch: int, enlarge: float) -> str:
    """What to type for ENOUGH patches along the shorter side: an enlargement, or a size of the frames."""
    factor = math.ceil(ENOUGH * patch / min(height, width))
    sides = (max(ENOUGH, math.ceil(side * enlarge / patch)) * patch for side in (height, width))
    high, wide = (math.ceil(side / enlarge) for side in sides)
    size = f"model.height={high} model.width={wide}"
    return f"advantage.map.enlarge={factor}, or {size} and more" if factor <= 64 else f"{size} and more"


def too_small(height: int, width: int, patch: int, enlarge: float, name: str) -> Finding | None:
    """What is wrong with frames of that size; None where they give at least LEAST patches along each side."""
    grid = cells(height, width, patch, enlarge)
    if min(grid) >= LEAST:
        return None
    larger = "" if enlarge == 1 else f", enlarged {enlarge:g} times,"
    return mistake(
        f"frames of {height} x {width} pixels{larger} give {name}, whose patches are {patch} pixels, a grid "
        f"of {grid[0]} x {grid[1]}; a map needs at least {LEAST} x {LEAST}, and one of fewer than "
        f"{ENOUGH} x {ENOUGH} misses much",
        helpful(height, width, patch, enlarge),
    )
