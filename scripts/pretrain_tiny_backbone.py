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

import argparse
import logging
import math
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from pretraining import State, generator, make_readable
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from rlvis.advantage.maps import backbone, spatial
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.data.world import draw, language
from rlvis.schema import MapBackbone, MapConfig, MapSource

log = logging.getLogger("pretrain_tiny_backbone")

ROOT = Path(__file__).resolve().parents[1]
WIDTH, LAYERS, HEADS, PATCH = 64, 3, 4, 4
GRID = draw.SIZE // PATCH
SHIFTS = 5  # places of a view on each axis, in patches
INVARIANCE, VARIANCE = 25.0, 25.0
MEASURED = ("single", "count", "relation")


def build(seed: int) -> Dinov2Model:
    """The untrained network."""
    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        mlp_ratio=4,
        patch_size=PATCH,
        image_size=draw.SIZE,
        layerscale_value=1.0,
    )
    return Dinov2Model(config)


# ------------------------------------------------------------------------------------------------------- data


def recolour(images: Tensor, random: torch.Generator) -> Tensor:
    """Colours turned about grey at random, stretched and moved, with a little noise: [B, 3, Y, X]."""
    count = len(images)
    turn, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=random))
    gain = 0.5 + torch.rand(count, 1, 1, generator=random)
    ground = 0.6 * (torch.rand(count, 3, 1, 1, generator=random) - 0.5)
    made = torch.einsum("bij,bjyx->biyx", turn * gain, images - 0.5) + 0.5 + ground
    noise = 0.03 * torch.rand(count, 1, 1, 1, generator=random)
    return (made + noise * torch.randn(images.shape, generator=random)).clamp(0, 1)


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
    made = torch.rot90(grid, -quarters, (-2, -1))
    return made.flip(-2) if flip else made


# --------------------------------------------------------------------------------------------------- training


def loss_of(one: Tensor, two: Tensor) -> Tensor:
    """Invariance and variance of tokens [B, n, D] of the same spots, each picture centred."""
    first, second = ((t - t.mean(1, keepdim=True)).flatten(0, 1) for t in (one, two))
    loss = INVARIANCE * F.mse_loss(first, second)
    for tokens in (first, second):
        loss = loss + VARIANCE * F.relu(1 - (tokens.var(0) + 1e-4).sqrt()).mean() / 2
    return loss


def train(model: Dinov2Model, state: State, args: argparse.Namespace) -> None:
    """AdamW, a cosine to zero; a batch is moved and turned as one, and coloured picture by picture."""
    mean, std = (torch.tensor(v)[:, None, None] for v in backbone.IMAGENET)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02)
    names, first = language.prompts(), state.values["step"]
    if first:
        model.load_state_dict(state.values["model"])
        optimizer.load_state_dict(state.values["optimizer"])
    losses, began = [], time.monotonic()
    model.train()
    for step in range(first, args.steps):
        random = generator(args.seed, 1, step)
        pick = torch.randint(len(names), (args.batch,), generator=random).tolist()
        images = draw.render([names[i] for i in pick], random)
        (y0, x0), (y1, x1) = torch.randint(SHIFTS, (2, 2), generator=random).tolist()
        quarters, flip = torch.randint(4, (2,), generator=random).tolist()
        views = [recolour(view(images, *place), random) for place in ((y0, x0), (y1, x1))]
        views[1] = turn(views[1], quarters, flip < 2)
        hidden = model(pixel_values=(torch.cat(views) - mean) / std).last_hidden_state[:, 1:]
        one, two = hidden.mT.reshape(2, args.batch, WIDTH, GRID, GRID)
        two = turn_back(two, quarters, flip < 2)
        top, left = max(y0, y1), max(x0, x1)  # the spots that both views show
        end, right = min(y0, y1) + GRID, min(x0, x1) + GRID
        shared = [
            grid[:, :, top - y : end - y, left - x : right - x].flatten(2).mT
            for grid, y, x in ((one, y0, x0), (two, y1, x1))
        ]
        loss = loss_of(*shared)
        for group in optimizer.param_groups:
            group["lr"] = (
                args.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            seconds = (time.monotonic() - began) / (step + 1 - first)
            log.info(
                "step %d/%d loss %.3f, %.2f s/step", step + 1, args.steps, sum(losses) / len(losses), seconds
            )
            losses.clear()
            state.save(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    model.eval()


# -------------------------------------------------------------------------------------------------- measuring


def measure(maps: Tensor, share: Tensor) -> dict[str, float]:
    """How well maps [N, 8, 8] find the patches that things cover by more than half (share [N, 8, 8]).

    iou: of the patches above the map's mean; iou_half: above 1/2 (the map is min-max normalised); auroc: of
    the map's order, mean over pictures; flipped: pictures whose order is worse than chance.
    """
    thing = share > 0.5
    made = {}
    for name, found in (("iou", maps > maps.mean((1, 2), keepdim=True)), ("iou_half", maps > 0.5)):
        both, any_ = (found & thing).sum((1, 2)), (found | thing).sum((1, 2))
        made[name] = (both / any_).mean().item()
    areas = []
    for values, mask in zip(maps, thing, strict=True):
        inside, outside = values[mask], values[~mask]
        above = (inside[:, None] > outside).float() + 0.5 * (inside[:, None] == outside).float()
        areas.append(above.mean())
    return {
        **made,
        "auroc": torch.stack(areas).mean().item(),
        "flipped": (torch.stack(areas) < 0.5).float().mean().item(),
    }


def psm_maps(model: Dinov2Model, images: Tensor, sigma: float) -> Tensor:
    """Maps [N, 8, 8] as a run makes them with advantage.map of advantage=vipo and backbone=tiny."""
    config = MapConfig(source=MapSource.psm, backbone=MapBackbone.tiny, sigma=sigma, batch=64)
    perceptual = PerceptualMap(backbone.wrap(model.eval()), config, torch.device("cpu"))
    media = (images * 255).round().to(torch.uint8)[:, None]
    return perceptual(media, torch.ones(1, GRID, GRID), (4, 1, GRID, GRID))[:, 0]


def table(model: Dinov2Model, seed: int) -> str:
    """Rows of the card: trained and untrained network, distance from grey, and the true mask itself."""
    random = generator(seed, 9)
    scene = draw.scenes(language.prompts(kinds=MEASURED) * 4, random)
    images = draw.paint(scene)[:, 0]
    share = F.avg_pool2d(draw.coverage_masks(scene)[:, 0].amax(1)[:, None], PATCH)[:, 0]
    grey = F.avg_pool2d((images - 0.5).abs().mean(1, keepdim=True), PATCH)[:, 0]
    busy = recolour(images, random)
    busy_grey = F.avg_pool2d((busy - 0.5).abs().mean(1, keepdim=True), PATCH)[:, 0]
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
            made = measure(maps, share)
            log.info("sigma %.0f %s %s", sigma, name, made)
            cells = (f"{made[key]:.3f}" for key in ("iou", "iou_half", "auroc", "flipped"))
            rows.append(f"| {sigma:.0f} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


CARD = """# tiny_backbone

A `Dinov2Model` of {count:.2f}M parameters (width {width}, {layers} layers, patches of {patch} px, {size}
kB): the vision backbone behind `advantage.map.backbone=tiny`, for tests and runs of tiny policies. It
learned from drawings of the shapes world, without labels, by a dense VICReg: tokens of one spot agree
between two views that differ in colours, place and orientation, and vary within a picture. What is left is
figure against ground.

Made by `{command}` ({batch} pictures a step, two views each).

Perceptual maps (`advantage=vipo`, 8 x 8 positions) on {pictures} fresh drawings of single things, counts and
relations, against the patches that things cover by more than half. IoU: patches above the map's mean; IoU
1/2: above 1/2; AUROC: of the map's order; flipped: pictures where it is worse than chance. sigma: of the
map's Gaussian, 1 is the default (it blurs over one patch, which bounds the IoU of even the true mask).

| sigma | map | IoU | IoU 1/2 | AUROC | flipped |
|---|---|---|---|---|---|
{table}

On plain grey the distance from grey is as good a map as any: what the network adds is that it does not know
the colour of the ground. "Colours changed" turns and moves all colours at random, ground included, as in
training.
"""


def main() -> None:
    """Train, measure, write the folder and its card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "rlvis" / "assets" / "tiny_backbone")
    parser.add_argument(
        "--state", type=Path, default=Path(tempfile.gettempdir()) / "pretrain_tiny_backbone.pt"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the file --state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--measure-only", action="store_true", help="write the card of the weights in --out anew"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    model = build(args.seed)
    if args.measure_only:
        model = Dinov2Model.from_pretrained(args.out)
    else:
        settings = {"seed": args.seed, "steps": args.steps, "batch": args.batch, "lr": args.lr}
        train(model, State(args.state, settings, args.resume, step=0), args)
        model.save_pretrained(args.out)
        make_readable(args.out)
    (args.out / "README.md").write_text(
        CARD.format(
            count=sum(p.numel() for p in model.parameters()) / 1e6,
            width=WIDTH,
            layers=LAYERS,
            patch=PATCH,
            size=(args.out / "model.safetensors").stat().st_size // 1000,
            command=f"python scripts/pretrain_tiny_backbone.py --seed {args.seed} --steps {args.steps}",
            batch=args.batch,
            pictures=4 * len(language.prompts(kinds=MEASURED)),
            table=table(model, args.seed),
        ),
        encoding="ascii",
    )


if __name__ == "__main__":
    main()
