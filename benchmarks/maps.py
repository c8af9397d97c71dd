"""What ViPO's map costs: ours over a version that goes frame by frame, and over one bare forward of the
backbone.

The frame-by-frame version does what the paper's text says in the plainest way: a PIL picture, one backbone
call, a full SVD in numpy, scipy's Gaussian, a loop over pixels in time. Both get the same frames, the same
random DINOv2 of the small size and the same signs. All jobs take turns; ratios are of neighbours.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m benchmarks.maps
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from torch import Tensor

from benchmarks import environment
from benchmarks.timing import interleaved, ratio, seconds
from rlvis.advantage.maps import backbone
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.schema import MapConfig, MapSource, PcaFit, PcaSign, PcaSolver

RESULTS = Path(__file__).resolve().parent / "results"


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
EXACT = replace(SAME, pca_solver=PcaSolver.exact)
DEFAULT = MapConfig(source=MapSource.psm)
GOALS = {"rest": 10.0, "whole": 1.05, "correlation": 0.999}


def small_dinov2(layers: int = 12) -> backbone.Backbone:
    """DINOv2-small with random weights (22 M at 12 layers)."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=layers, patch_size=14, image_size=518
    )
    return backbone.wrap(Dinov2Model(config).eval().requires_grad_(False))


def pictures(size: Size) -> Tensor:
    """Smooth random frames uint8 [N, M, 3, Y, X], neighbours in time alike."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(size.samples, 3, max(2, size.frames // 3), 8, 8, generator=generator)
    full = (size.frames, size.height, size.width)
    smooth = F.interpolate(coarse, size=full, mode="trilinear", align_corners=False)
    grain = 0.1 * torch.rand(smooth.shape, generator=generator)
    return ((0.9 * smooth + grain) * 255).to(torch.uint8).movedim(2, 1).contiguous()


def plain_tokens(model: backbone.Backbone, frame: Tensor) -> np.ndarray:
    """Tokens [L, D] of one frame uint8 [3, Y, X], by way of PIL."""
    gh, gw = model.grid(*frame.shape[1:])
    picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
    picture = picture.resize((gw * model.patch, gh * model.patch), Image.Resampling.BILINEAR)
    values = np.asarray(picture, dtype=np.float32) / 255.0
    mean, std = (t.flatten().numpy() for t in (model.mean, model.std))
    pixels = torch.from_numpy(((values - mean) / std).transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        return model.module(pixel_values=pixels).last_hidden_state[0, 1:].numpy()


def plain_map(
    tokens: Sequence[np.ndarray], grid: tuple[int, int], latent: tuple[int, int, int]
) -> np.ndarray:
    """Map [F, H, W] of one sample from each frame's tokens [L, D]."""
    made = np.stack([_plain_frame(one, grid, latent[1:]) for one in tokens])
    if len(tokens) == latent[0] == 1:
        return made
    if len(tokens) != latent[0]:
        stacked = torch.from_numpy(made)[None, None]
        made = F.interpolate(stacked, size=latent, mode="trilinear", align_corners=False)[0, 0].numpy()
    for y in range(latent[1]):
        for x in range(latent[2]):
            made[:, y, x] = gaussian_filter1d(made[:, y, x], 0.3)
    return _minmax(made)


def _plain_frame(tokens: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    centred = tokens - tokens.mean(0)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    structure = np.zeros(len(tokens), dtype=np.float32)
    for j in range(3):
        loading = right[j] * np.sign(right[j][np.abs(right[j]).argmax()])
        score = centred @ loading
        structure += values[j] ** 2 / (values**2).sum() * (score.max() - score) / (score.max() - score.min())
    smoothed = _minmax(gaussian_filter(structure.clip(0, 1).reshape(grid), 1.0))
    picture = torch.from_numpy(smoothed)[None, None]
    resized = F.interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)
    return _minmax(resized[0, 0].numpy())


def _minmax(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min() + 1e-8)


def measure(sizes: Sequence[Size], repeats: int, model: backbone.Backbone) -> dict[str, Any]:
    """All sizes, as plain values."""
    started = time.perf_counter()
    cases = [_case(size, repeats, model) for size in sizes]
    about = environment.describe(torch.device("cpu"))
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


def _case(size: Size, repeats: int, model: backbone.Backbone) -> dict[str, Any]:
    cpu, media = torch.device("cpu"), pictures(size)
    free, shape = torch.ones(size.latent), (16, *size.latent)
    grid = model.grid(size.height, size.width)
    flat = media.flatten(0, 1)
    exact = (grid[0] * model.patch, grid[1] * model.patch)
    resized = F.interpolate(flat.float() / 255, size=exact, mode="bilinear", antialias=True)
    pixels = (resized - model.mean) / model.std
    known = model(flat.float() / 255)[0]
    each = [plain_tokens(model, frame) for frame in flat]

    def given(frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return known, grid

    def whole(config: MapConfig) -> Callable[[], Tensor]:
        return lambda: PerceptualMap(model, config, cpu)(media, free, shape)

    def rest(config: MapConfig) -> Callable[[], Tensor]:
        # Tokens are given, so the frames need no pixels.
        blank = torch.zeros(size.samples, size.frames, 3, 1, 1, dtype=torch.uint8)
        return lambda: PerceptualMap(given, config, cpu)(blank, free, shape)

    def plain(tokens: Callable[[int], np.ndarray]) -> Callable[[], np.ndarray]:
        m = size.frames
        return lambda: np.stack(
            [plain_map([tokens(i * m + j) for j in range(m)], grid, size.latent) for i in range(size.samples)]
        )

    @torch.no_grad()
    def forward() -> None:
        model.module(pixel_values=pixels)

    jobs: dict[str, Callable[[], object]] = {
        "map, default": whole(DEFAULT),
        "one batched forward": forward,
        "map, same settings": whole(SAME),
        "frame by frame": plain(lambda i: plain_tokens(model, flat[i])),
    }
    small: dict[str, Callable[[], object]] = {
        "map, default, without backbone": rest(DEFAULT),
        "map, same settings, without backbone": rest(SAME),
        "map, exact solver, without backbone": rest(EXACT),
        "frame by frame, without backbone": plain(lambda i: each[i]),
    }
    laps = interleaved(jobs, repeats, cpu) | interleaved(small, 3 * repeats, cpu)
    pairs = (
        ("map, default", "one batched forward"),
        ("frame by frame", "map, same settings"),
        ("frame by frame", "map, default"),
        ("frame by frame, without backbone", "map, same settings, without backbone"),
        ("frame by frame, without backbone", "map, exact solver, without backbone"),
        ("frame by frame, without backbone", "map, default, without backbone"),
    )
    ours, theirs = whole(SAME)().numpy(), plain(lambda i: plain_tokens(model, flat[i]))()
    alike = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ours, theirs, strict=True)]
    return {
        "size": asdict(size) | {"name": size.name, "grid": grid},
        "ratios": [{"above": a, "below": b} | ratio(laps, a, [b], cpu) for a, b in pairs],
        "seconds": {name: seconds(values, cpu) for name, values in laps.items()},
        "share_of_forward": seconds(laps["map, default, without backbone"], cpu)
        / seconds(laps["one batched forward"], cpu),
        "least_correlation": min(alike),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def markdown(result: dict[str, Any]) -> str:
    """The whole result as a page."""
    about = result["environment"]
    threads = ", ".join(f"{k} {v}" for k, v in about["threads"].items())
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        "# ViPO's map on one CPU thread",
        "",
        "Made by `python -m benchmarks.maps`; do not edit. Goals: without the backbone at least 10 "
        "times as fast as "
        "frame by frame; the whole map at most 1.05 of one batched forward; correlation of the maps "
        "at least 0.999.",
        "",
        f"- {about['device']}, {about['cpu_cores']} cores; threads: {threads}; clock: {about['clock']}",
        f"- {result['backbone']}; {about['precision']}; Python {about['python']}; {versions}",
        f"- {result['rounds']} interleaved rounds (3 times as many without the backbone); "
        f"commit {about['commit']}; {result['seconds_in_all']:.0f} s in all",
        "- `same settings`: one basis a frame, signs by the largest loading, as in the frame-by-frame "
        "version, by the default solver (subspace); `exact solver`: the same with it; `default`: one basis a "
        "clip, signs by the border",
    ]
    for case in result["cases"]:
        size = case["size"]
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
        lines += [
            f"| {r['above']} / {r['below']} | {r['median']:.3f} | {r['min']:.3f} .. {r['max']:.3f} | "
            f"{r['wall']:.3f} | "
            f"{case['seconds'][r['above']]:.4f} | {case['seconds'][r['below']]:.4f} |"
            for r in case["ratios"]
        ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maps", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=4, help="rounds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = measure(SIZES, chosen.repeats, small_dinov2())
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "maps_cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (chosen.out / "maps_cpu.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
