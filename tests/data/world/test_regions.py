"""Regions: place, size and number of drawn things are measured to a fraction of a pixel."""

import torch

from rlvis.data.world import draw, regions
from rlvis.data.world.language import COLOURS, SHAPES, prompts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_half_extents_and_centres_are_those_of_the_scene() -> None:
    scene = draw.scenes(["something"] * 200, seeded())
    blobs = regions.find(draw.paint(scene)[:, 0])
    half, shape = scene.half[:, 0], scene.shape[:, 0]
    # A triangle's tip is drawn a little full, and its corners a little empty.
    torch.testing.assert_close(blobs.half[:, 0], half, rtol=0.0, atol=0.1)
    drop = torch.tensor([regions.DROP[name] for name in SHAPES])[shape] * half
    centroid = scene.centre[:, 0, 0] + torch.stack([torch.zeros_like(drop), drop], dim=1)
    torch.testing.assert_close(blobs.centre[:, 0], centroid, rtol=0.0, atol=0.1)
    assert torch.equal(blobs.overlap[:, 0].argmax(dim=1), shape)
    assert torch.equal(blobs.colour[:, 0].argmax(dim=1), scene.colour[:, 0])
    assert len(COLOURS) == blobs.colour.shape[2]


def test_all_things_are_found_largest_first() -> None:
    texts = prompts(kinds=("count", "relation"))
    scene = draw.scenes(texts, seeded(1))
    blobs = regions.find(draw.paint(scene)[:, 0])
    number = scene.present.sum(dim=1)
    assert torch.equal(blobs.large, number)
    torch.testing.assert_close(blobs.number, number.float(), rtol=0.0, atol=1e-3)
    assert torch.equal((blobs.presence > 0.5).sum(dim=1), number)
    area = blobs.half**2 * torch.tensor([regions.AREA[s] for s in SHAPES])[blobs.overlap.argmax(dim=2)]
    assert (area.diff(dim=1) < 0.5).all()


def test_pictures_of_a_batch_do_not_touch() -> None:
    """The same picture reads the same alone and between others that are full to the border."""
    image = draw.render(["two red circles"], seeded(2))
    full = torch.tensor(COLOURS["red"]).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    alone, among = regions.find(image), regions.find(torch.cat([full, image, full]))
    for name in ("presence", "colour", "overlap", "half", "centre", "number"):
        torch.testing.assert_close(getattr(among, name)[1], getattr(alone, name)[0])
