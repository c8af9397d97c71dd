"""Make the embedded vision backbone: a small Dinov2Model that has learned, without labels, what stands out.

Two views of a drawing differ in colours, place and orientation; the tokens of the same spot must agree, and
must vary inside a picture. A dense VICReg (Bardes et al. 2022, arXiv:2105.04906; on patches:
arXiv:2210.01571) with three changes: tokens are centred within their picture, since a map only sees
differences there; the loss acts on the tokens themselves, without a projector, so that what a view changes
(hue, position, which way an edge faces) leaves them; and there is no covariance term, so that one direction,
figure against ground, may dominate (a weight of 0.05 gave worse maps, and those got worse with more steps).
Every step draws from (seed, step) alone: the same number of steps gives
the same weights, interrupted or not.

    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_backbone.py
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny_backbone.py --resume
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pretraining import command, folders
from pretraining.networks import configuration
from pretraining.phases import Phase, cosine, train
from pretraining.state import State, generator
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from rlvis.advantage.maps import backbone, spatial
from rlvis.advantage.maps.backbones.tiny import Tiny
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.data.world import draw, language
from rlvis.schema import MapConfig, MapSource

log = logging.getLogger("pretraining")

NETWORK = configuration("tiny_backbone")
WIDTH, PATCH = NETWORK["hidden_size"], NETWORK["patch_size"]
GRID = draw.SIZE // PATCH
SHIFTS = 5  # places of a view on each axis, in patches
INVARIANCE, VARIANCE = 25.0, 25.0
MEASURED = ("single", "count", "relation")


def build(seed: int) -> Any:
    """The untrained network."""
    torch.manual_seed(seed)
    return Dinov2Model(Dinov2Config(image_size=draw.SIZE, **NETWORK))


# ------------------------------------------------------------------------------------------------------- data


def recolour(images: Tensor, random: torch.Generator) -> Tensor:
    """Colours turned about grey at random, stretched and moved, with a little noise: [B, 3, Y, X]."""
    count = len(images)
    turn, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=random))
    gain = 0.5 + torch.rand(count, 1, 1, generator=random)
    ground = 0.6 * (torch.rand(count, 3, 1, 1, generator=random) - 0.5)
    turned = torch.einsum("bij,bjyx->biyx", turn * gain, images - 0.5) + 0.5 + ground
    noise = 0.03 * torch.rand(count, 1, 1, 1, generator=random)
    return (turned + noise * torch.randn(images.shape, generator=random)).clamp(0, 1)


def view(images: Tensor, row: int, column: int) -> Tensor:
    """The part of pictures with a wider ground that starts at a patch (row, column)."""
    margin = PATCH * (SHIFTS - 1) // 2
    wide = F.pad(images, (margin,) * 4, mode="replicate")
    return wide[:, :, PATCH * row : PATCH * row + draw.SIZE, PATCH * column : PATCH * column + draw.SIZE]


def turn(images: Tensor, quarters: int, flip: bool) -> Tensor:
    """[..., Y, X] turned on its back first, then by quarters."""
    return torch.rot90(images.flip(-2) if flip else images, quarters, (-2, -1))


def turn_back(grid: Tensor, quarters: int, flip: bool) -> Tensor:
    """The inverse of `turn`."""
    upright = torch.rot90(grid, -quarters, (-2, -1))
    return upright.flip(-2) if flip else upright


# --------------------------------------------------------------------------------------------------- training


def loss_of(one: Tensor, two: Tensor) -> Tensor:
    """Invariance and variance of tokens [B, n, D] of the same spots, each picture centred."""
    first, second = ((t - t.mean(1, keepdim=True)).flatten(0, 1) for t in (one, two))
    loss = INVARIANCE * F.mse_loss(first, second)
    for tokens in (first, second):
        loss = loss + VARIANCE * F.relu(1 - (tokens.var(0) + 1e-4).sqrt()).mean() / 2
    return loss


def batch_loss(model: Any, random: torch.Generator, size: int) -> Tensor:
    """Of two views of `size` drawings: moved and turned as one, coloured picture by picture."""
    names = language.prompts()
    mean, std = (torch.tensor(v)[:, None, None] for v in backbone.IMAGENET)
    pick = torch.randint(len(names), (size,), generator=random).tolist()
    images = draw.render([names[i] for i in pick], random)
    (y0, x0), (y1, x1) = torch.randint(SHIFTS, (2, 2), generator=random).tolist()
    quarters, flip = torch.randint(4, (2,), generator=random).tolist()
    views = [recolour(view(images, *place), random) for place in ((y0, x0), (y1, x1))]
    views[1] = turn(views[1], quarters, flip < 2)
    hidden = model(pixel_values=(torch.cat(views) - mean) / std).last_hidden_state[:, 1:]
    one, two = hidden.mT.reshape(2, size, WIDTH, GRID, GRID)
    two = turn_back(two, quarters, flip < 2)
    top, left = max(y0, y1), max(x0, x1)  # the spots that both views show
    end, right = min(y0, y1) + GRID, min(x0, x1) + GRID
    shared = [
        grid[:, :, top - y : end - y, left - x : right - x].flatten(2).mT
        for grid, y, x in ((one, y0, x0), (two, y1, x1))
    ]
    return loss_of(*shared)


def train_backbone(model: Any, state: State, args: argparse.Namespace) -> None:
    """AdamW, a cosine to zero."""
    phase = Phase(
        name="backbone",
        models={"backbone": model},
        optimizer=torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02),
        steps=args.steps,
        loss=lambda step: batch_loss(model, generator(args.seed, 1, step), args.batch),
        rate=lambda step: args.lr * min(1.0, (step + 1) / 50) * cosine(step, args.steps),
        log_steps=50,
    )
    state.restore(backbone=model)
    train(phase, state)


# -------------------------------------------------------------------------------------------------- measuring


def measure(maps: Tensor, share: Tensor) -> dict[str, float]:
    """How well maps [N, 8, 8] find the patches that things cover by more than half (share [N, 8, 8]).

    iou: of the patches above the map's mean; iou_half: above 1/2 (the map is min-max normalised); auroc: of
    the map's order, mean over pictures; flipped: pictures whose order is worse than chance.
    """
    thing = share > 0.5
    means = {}
    for name, bright in (("iou", maps > maps.mean((1, 2), keepdim=True)), ("iou_half", maps > 0.5)):
        both, any_ = (bright & thing).sum((1, 2)), (bright | thing).sum((1, 2))
        means[name] = (both / any_).mean().item()
    areas = []
    for values, mask in zip(maps, thing, strict=True):
        inside, outside = values[mask], values[~mask]
        above = (inside[:, None] > outside).float() + 0.5 * (inside[:, None] == outside).float()
        areas.append(above.mean())
    order = torch.stack(areas)
    return {**means, "auroc": order.mean().item(), "flipped": (order < 0.5).float().mean().item()}


def psm_maps(model: Any, images: Tensor, sigma: float) -> Tensor:
    """Maps [N, 8, 8] as a run makes them with advantage.map of advantage=vipo and backbone=tiny."""
    config = MapConfig(source=MapSource.psm, backbone="tiny", sigma=sigma, batch=64)
    perceptual = PerceptualMap(Tiny(model.eval()), config, torch.device("cpu"))
    media = (images * 255).round().to(torch.uint8)[:, None]
    return perceptual(media, torch.ones(1, GRID, GRID), (4, 1, GRID, GRID))[:, 0]


def table(model: Any, seed: int) -> str:
    """Rows of the card: trained and untrained network, distance from grey, and the true mask itself."""
    random = generator(seed, 9)
    scene = draw.scenes(language.prompts(kinds=MEASURED) * 4, random)
    images = draw.paint(scene)[:, 0]
    share = F.avg_pool2d(draw.coverage_masks(scene)[:, 0].amax(1)[:, None], PATCH)[:, 0]
    busy = recolour(images, random)
    grey, busy_grey = (
        F.avg_pool2d((x - 0.5).abs().mean(1, keepdim=True), PATCH)[:, 0] for x in (images, busy)
    )
    untrained = build(seed)
    rows = []
    for sigma in (1.0, 0.0):
        cases = {
            "this backbone": psm_maps(model, images, sigma),
            "the same, untrained": psm_maps(untrained, images, sigma),
            "distance of the pixel from grey": spatial.smooth(grey, sigma),
            "the true mask": spatial.smooth(share, sigma),
            "this backbone, colours changed": psm_maps(model, busy, sigma),
            "the same, untrained, colours changed": psm_maps(untrained, busy, sigma),
            "distance from grey, colours changed": spatial.smooth(busy_grey, sigma),
        }
        for name, maps in cases.items():
            means = measure(maps, share)
            log.info("sigma %.0f %s %s", sigma, name, means)
            columns = (f"{means[key]:.3f}" for key in ("iou", "iou_half", "auroc", "flipped"))
            rows.append(folders.row(f"{sigma:.0f}", name, *columns))
    return "\n".join(rows)


def main() -> None:
    """Train, measure, write the folder and its card."""
    out, state = command.ASSETS / "tiny_backbone", Path(tempfile.gettempdir()) / "pretrain_tiny_backbone.pt"
    parser = command.command_line(
        (__doc__ or "").split("\n")[0], out, state, seed=0, steps=250, batch=64, lr=1e-3
    )
    anew = "write the card of the weights in --out anew"
    parser.add_argument("--measure-only", action="store_true", help=anew)
    args = parser.parse_args()
    command.begin(args.seed)
    if args.measure_only:
        model = Dinov2Model.from_pretrained(args.out)
    else:
        model = build(args.seed)
        settings = {"seed": args.seed, "steps": args.steps, "batch": args.batch, "lr": args.lr}
        train_backbone(model, State(args.state, settings, args.resume), args)
        model.save_pretrained(args.out)
        folders.make_readable(args.out)
    folders.write_card(
        "tiny_backbone",
        args,
        [model],
        network=NETWORK,
        size=(args.out / "model.safetensors").stat().st_size // 1000,
        pictures=4 * len(language.prompts(kinds=MEASURED)),
        table=table(model, args.seed),
    )


if __name__ == "__main__":
    main()
