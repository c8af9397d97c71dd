"""From how many patches on a map finds things, and whether enlarging small frames mends it.

Pictures of the shapes world, whose objects are known to the pixel, drawn at several sizes; maps by the
embedded backbone with the settings of MapConfig, compared on one grid of 8 x 8. Grids that a run refuses are
measured too.

    OMP_NUM_THREADS=1 python -m benchmarks.map_sizes
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import environment, pages
from rlvis.advantage.maps.backbones.tiny import Tiny
from rlvis.advantage.maps.grid import cells
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.data.world import draw, language
from rlvis.schema import MapConfig, MapSource

CPU = torch.device("cpu")
PIXELS = (8, 12, 16, 24, 32, 48, 64)
ENLARGE = (1, 2, 4, 8)
MOST = 128  # pixels a side after enlarging
LATENT = 8  # cells a side of the grid on which all are compared
FINE = 64  # pixels a side of the true masks


class Unbounded(Tiny):
    """The embedded backbone at grids that are too small for a run."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Whole patches, however few."""
        return cells(height, width, self.patch, self.enlarge)


def measure(
    pixels: Sequence[int] = PIXELS, seeds: Sequence[int] = (0, 1, 2, 3), prompts: int = 128
) -> dict[str, Any]:
    """All cases, as plain values: means over the seeds, and their standard deviations."""
    cases = []
    for side in pixels:
        for enlarge in ENLARGE:
            if side * enlarge > MOST:
                continue
            rows = [quality(*maps(side, enlarge, seed, prompts)) for seed in seeds]
            means = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
            spread = {f"{name}_std": statistics.pstdev([row[name] for row in rows]) for name in rows[0]}
            cases.append({"pixels": side, "enlarge": enlarge, "grid": side * enlarge // 4, **means, **spread})
    return {
        "environment": environment.describe(CPU),
        "seeds": list(seeds),
        "prompts": prompts,
        "cases": cases,
    }


def maps(side: int, enlarge: int, seed: int, prompts: int) -> tuple[Tensor, Tensor]:
    """Maps of pictures of side x side pixels, and the share of each cell that objects cover: [N, 8, 8]."""
    names = language.prompts(kinds=("single", "relation"))[:prompts]
    scene = draw.scenes(names, torch.Generator().manual_seed(seed))
    pictures = (draw.paint(scene, side)[:, 0] * 255).round().to(torch.uint8)
    config = MapConfig(source=MapSource.psm, backbone="tiny", enlarge=float(enlarge), batch=64)
    make = PerceptualMap(Unbounded.load(config, CPU), config, CPU)
    latent = (1, LATENT, LATENT)
    masks = draw.coverage_masks(scene, FINE)[:, 0].amax(1)
    share = F.avg_pool2d(masks[:, None], FINE // LATENT)[:, 0]
    return make(pictures[:, None], torch.ones(latent), (4, *latent))[:, 0], share


def quality(made: Tensor, share: Tensor) -> dict[str, float]:
    """enrichment: the map's mass inside of objects over their area (1: no better than a map of ones).

    found: share of the pictures with more than 1. auprc: area under precision and recall of the cells that
    objects cover by half. chance: the auprc of a random order, their share.
    """
    inside = (made * share).flatten(1).sum(1) / made.flatten(1).sum(1)
    enrichment = inside / share.flatten(1).mean(1)
    covered = share.flatten(1) > 0.5
    with_things = [(m, c) for m, c in zip(made.flatten(1), covered, strict=True) if bool(c.any())]
    return {
        "enrichment": float(enrichment.mean()),
        "found": float((enrichment > 1).double().mean()),
        "auprc": statistics.mean(average_precision(m, c) for m, c in with_things),
        "chance": statistics.mean(float(c.double().mean()) for _, c in with_things),
    }


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Mean precision at the true cells, by falling score."""
    ordered = truth[scores.argsort(descending=True)].double()
    precision = ordered.cumsum(0) / torch.arange(1, len(ordered) + 1)
    return float((precision * ordered).sum() / ordered.sum())


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page."""
    about = result["environment"]
    chance = result["cases"][0]["chance"]
    lines = [
        "# From how many patches on a map finds things",
        "",
        "Made by `python -m benchmarks.map_sizes`; do not edit.",
        "",
        f"- {result['prompts']} prompts of the shapes world, seeds {result['seeds']}; mean (std over seeds)",
        "- enrichment: mass of the map inside of objects over their area; found: pictures where it is above "
        f"1; AUPRC of the cells that objects cover by half (by chance: {chance:.2f}); all on 8 x 8 cells",
        f"- commit {about['commit']}; {pages.software(about)}",
        "",
        "| frame, px | enlarge | patches | enrichment | found | AUPRC |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        values = [
            f"{case[name]:.2f} ({case[f'{name}_std']:.2f})" for name in ("enrichment", "found", "auprc")
        ]
        lines.append(pages.row(case["pixels"], case["enlarge"], f"{case['grid']} x {case['grid']}", *values))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.map_sizes", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=pages.RESULTS, help="folder of the results")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = measure()
    pages.write(chosen.out, "map_sizes", result, markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
