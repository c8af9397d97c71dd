"""What ViPO's map costs: ours over a version that goes frame by frame, and over one bare forward of the
backbone.

Both get the same frames, the same random DINOv2 of the small size and the same signs. All jobs take turns;
ratios are of neighbours.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m benchmarks.maps
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import environment, pages
from benchmarks.frame_by_frame import plain_map, plain_tokens
from benchmarks.timing import interleaved, ratio, seconds
from rlvis.advantage.maps import backbone
from rlvis.advantage.maps.backbones.dinov2 import Dinov2
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.schema import MapConfig, MapSource, PcaFit, PcaSign

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Samples, frames of each, pixels, and the latent (F, H, W)."""

    samples: int
    frames: int
    height: int
    width: int
    latent: tuple[int, int, int]

    @property
    def name(self) -> str:
        """As `2 x 1 frames of 512 x 512`."""
        return f"{self.samples} x {self.frames} frames of {self.height} x {self.width}"


SIZES = (
    Size(2, 1, 512, 512, (1, 64, 64)),
    Size(1, 9, 240, 416, (3, 30, 52)),
    Size(8, 1, 224, 224, (1, 28, 28)),
)
# Equal mathematics for the comparison, by either solver; `default` is what advantage=vipo runs.
SAME = MapConfig(source=MapSource.psm, pca_fit=PcaFit.frame, pca_sign=PcaSign.max_abs_loading)
DEFAULT = MapConfig(source=MapSource.psm)
PAIRS = (
    ("map, default", "one batched forward"),
    ("frame by frame", "map, same settings"),
    ("frame by frame", "map, default"),
    ("frame by frame, without backbone", "map, same settings, without backbone"),
    ("frame by frame, without backbone", "map, default, without backbone"),
)
GOALS = {"rest": 10.0, "whole": 1.05, "correlation": 0.999}


def small_dinov2(layers: int = 12) -> backbone.Backbone:
    """DINOv2-small with random weights (22 M at 12 layers)."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=layers, patch_size=14, image_size=518
    )
    return Dinov2(Dinov2Model(config).train(False).requires_grad_(False))


def pictures(size: Size) -> Tensor:
    """Smooth random frames uint8 [N, M, 3, Y, X], neighbours in time alike."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(size.samples, 3, max(2, size.frames // 3), 8, 8, generator=generator)
    full = (size.frames, size.height, size.width)
    smooth = F.interpolate(coarse, size=full, mode="trilinear", align_corners=False)
    grain = 0.1 * torch.rand(smooth.shape, generator=generator)
    return ((0.9 * smooth + grain) * 255).to(torch.uint8).movedim(2, 1).contiguous()


def measure(sizes: Sequence[Size], repeats: int, model: backbone.Backbone) -> dict[str, Any]:
    """All sizes, as plain values."""
    started = time.perf_counter()
    cases = [measure_size(size, repeats, model) for size in sizes]
    about = environment.describe(CPU)
    about["threads"]["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS")
    parameters = sum(p.numel() for p in model.module.parameters())
    return {
        "environment": about,
        "backbone": f"DINOv2, width {model.module.config.hidden_size}, {parameters / 1e6:.1f} M "
        "random weights",
        "goals": GOALS,
        "rounds": repeats,
        "cases": cases,
        "seconds_in_all": time.perf_counter() - started,
    }


class Comparison:
    """The jobs on the frames of one size; each returns maps [N, F, H, W], or nothing."""

    def __init__(self, size: Size, model: backbone.Backbone) -> None:
        self.size, self.model, self.media = size, model, pictures(size)
        self.grid = model.grid(size.height, size.width)
        self.flat = self.media.flatten(0, 1)
        exact = (self.grid[0] * model.patch, self.grid[1] * model.patch)
        resized = F.interpolate(self.flat.float() / 255, size=exact, mode="bilinear", antialias=True)
        self.pixels = (resized - model.mean) / model.std
        self.tokens = model(self.flat.float() / 255)[0]
        self.plain_tokens = [plain_tokens(model, frame) for frame in self.flat]

    def map(self, config: MapConfig) -> Callable[[], Tensor]:
        """Ours, from pixels."""
        return lambda: self._map(self.model, config, self.media)

    def map_of_tokens(self, config: MapConfig) -> Callable[[], Tensor]:
        """Ours, with the tokens given, so that the frames need no pixels."""
        blank = torch.zeros(self.size.samples, self.size.frames, 3, 1, 1, dtype=torch.uint8)
        return lambda: self._map(lambda frames: (self.tokens, self.grid), config, blank)

    def _map(self, model: Any, config: MapConfig, media: Tensor) -> Tensor:
        latent = self.size.latent
        return PerceptualMap(model, config, CPU)(media, torch.ones(latent), (16, *latent))

    @torch.no_grad()
    def forward(self) -> None:
        """One batched forward of the bare backbone."""
        self.model.module(pixel_values=self.pixels)

    def plain(self) -> np.ndarray:
        """Frame by frame, from pixels."""
        return self._plain([plain_tokens(self.model, frame) for frame in self.flat])

    def plain_of_tokens(self) -> np.ndarray:
        """Frame by frame, with the tokens given."""
        return self._plain(self.plain_tokens)

    def _plain(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        m, latent = self.size.frames, self.size.latent
        return np.stack([plain_map(tokens[i : i + m], self.grid, latent) for i in range(0, len(tokens), m)])


def measure_size(size: Size, repeats: int, model: backbone.Backbone) -> dict[str, Any]:
    """Ratios, seconds and how alike the maps are."""
    compared = Comparison(size, model)
    whole: dict[str, Callable[[], object]] = {
        "map, default": compared.map(DEFAULT),
        "one batched forward": compared.forward,
        "map, same settings": compared.map(SAME),
        "frame by frame": compared.plain,
    }
    rest: dict[str, Callable[[], object]] = {
        "map, default, without backbone": compared.map_of_tokens(DEFAULT),
        "map, same settings, without backbone": compared.map_of_tokens(SAME),
        "frame by frame, without backbone": compared.plain_of_tokens,
    }
    laps = interleaved(whole, repeats, CPU) | interleaved(rest, 3 * repeats, CPU)
    ours, theirs = compared.map(SAME)().numpy(), compared.plain()
    alike = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ours, theirs, strict=True)]
    return {
        "size": asdict(size) | {"name": size.name, "grid": compared.grid},
        "ratios": [{"above": a, "below": b} | ratio(laps, a, [b], CPU) for a, b in PAIRS],
        "seconds": {name: seconds(values, CPU) for name, values in laps.items()},
        "share_of_forward": seconds(laps["map, default, without backbone"], CPU)
        / seconds(laps["one batched forward"], CPU),
        "least_correlation": min(alike),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page."""
    about = result["environment"]
    lines = [
        "# ViPO's map on one CPU thread",
        "",
        "Made by `python -m benchmarks.maps`; do not edit. Goals: the whole map at most 1.05 of one batched "
        "forward; correlation of the maps at least 0.999.",
        "",
        f"- {pages.machine(about)}; clock: {about['clock']}",
        f"- {result['backbone']}; {pages.software(about)}",
        f"- {result['rounds']} interleaved rounds (3 times as many without the backbone); "
        f"commit {about['commit']}; {result['seconds_in_all']:.0f} s in all",
        "- `same settings`: one basis a frame, signs by the largest loading, as in the frame-by-frame "
        "version; `default`: one basis a clip, signs by the border",
    ]
    for case in result["cases"]:
        size, spent = case["size"], case["seconds"]
        lines += [
            "",
            f"## {size['name']}, grid {size['grid'][0]} x {size['grid'][1]}",
            "",
            f"Least correlation of the two maps {case['least_correlation']:.6f}, largest difference "
            f"{case['largest_difference']:.1e}. The default map without its backbone takes "
            f"{case['share_of_forward']:.2%} of the forward.",
            "",
            "| ratio | median | range | wall time | seconds above | seconds below |",
            "|---|---|---|---|---|---|",
        ]
        for r in case["ratios"]:
            both = (f"{spent[r[side]]:.4f}" for side in ("above", "below"))
            lines.append(pages.ratio_row(f"{r['above']} / {r['below']}", r, *both))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = pages.arguments("benchmarks.maps", __doc__, 4, argv)
    torch.set_num_threads(1)
    result = measure(SIZES, chosen.repeats, small_dinov2())
    pages.write(chosen.out, "maps_cpu", result, markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
