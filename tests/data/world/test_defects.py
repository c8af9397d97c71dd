"""Defects: they lie where their mask says, pixels alone give them away, and clean drawings have none."""

import pytest
import torch
from torch import Tensor

from rlvis.data.world import checker, defects, draw
from rlvis.data.world.defects import KINDS, PICTURE_KINDS, add, severity
from rlvis.data.world.language import prompts

PAINTED = [kind for kind in KINDS if kind != "tint"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(size: int = 32) -> Tensor:
    return draw.render(prompts()[::3], seeded(), size)[:, None]


def clips() -> Tensor:
    return draw.render_clips(prompts(clips=True)[::6], seeded())


def test_clean_drawings_have_no_defect() -> None:
    everything = draw.render(prompts() * 3, seeded(1))[:, None]
    for clean in (everything, clips(), pictures(16), pictures(64)):
        assert severity(clean).max() < 1e-3
        assert defects.mask(clean).max() < 1e-3
    noisy = everything + 0.05 * torch.randn(everything.shape, generator=seeded(2))
    assert severity(noisy).mean() < 1e-3


@pytest.mark.parametrize("kind", PAINTED)
def test_the_mask_is_what_was_painted_and_what_pixels_show(kind: str) -> None:
    for clean in (clips(), pictures()) if kind in PICTURE_KINDS else (clips(),):
        spoiled, mask = add(clean, kind, seeded(3))
        assert spoiled.shape == clean.shape
        assert mask.shape == clean.shape[:2] + clean.shape[3:]
        assert mask.dtype == torch.bool
        assert torch.equal(spoiled.movedim(2, -1)[~mask], clean.movedim(2, -1)[~mask])
        assert mask.flatten(1).any(dim=1).all()
        assert ((defects.mask(spoiled) > 0.5) == mask).all()
        share = mask.double().mean(dim=(1, 2, 3))
        torch.testing.assert_close(severity(spoiled), share, rtol=0.0, atol=1.5e-3)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_blemishes_have_one_to_five_percent_of_the_area(size: int) -> None:
    for kind in PICTURE_KINDS[:-1]:
        _, mask = add(pictures(size), kind, seeded(4))
        share = mask.double().mean(dim=(1, 2, 3))
        # A texture has what the thing has in its window: small rings have the least.
        assert share.min() >= (0.005 if kind == "texture" else 0.015)
        assert share.max() <= 0.05


def test_each_kind_lies_where_it_should() -> None:
    clean = clips()
    things = checker.thing_masks(clean.flatten(0, 1)).reshape(clean.shape[0], 9, 32, 32)
    solid = things > 0.5
    masks = {kind: add(clean, kind, seeded(5))[1] for kind in KINDS}
    assert not (masks["blotch"] & solid).any()
    assert ((masks["patch"] & solid).flatten(2).any(dim=2)).double().mean() > 0.98
    assert (masks["texture"] <= solid).all()
    assert torch.equal(masks["flicker"][:, 1::2], solid[:, 1::2])
    assert not masks["flicker"][:, ::2].any()
    assert masks["tint"].all()
    assert torch.equal(masks["static"], masks["static"][:, :1].expand_as(masks["static"]))
    assert not torch.equal(masks["speck"], masks["speck"][:, :1].expand_as(masks["speck"]))
    hit = masks["flash"].flatten(2).any(dim=2)
    groups = {tuple(row.nonzero().flatten().tolist()) for row in hit}
    assert groups == {(0,), (1, 2, 3, 4), (5, 6, 7, 8)}
    # A speck comes anywhere: its place says nothing about the thing's.
    corners = torch.stack([m[0].nonzero().float().mean(dim=0) for m in masks["static"]])
    assert (corners.std(dim=0) > 6).all()


def test_a_patch_moves_with_its_thing() -> None:
    clean = draw.render_clips(["a red circle moving right quickly"] * 8, seeded())
    _, mask = add(clean, "patch", seeded(6))
    columns = [[frame.nonzero()[:, 1].float().mean() for frame in clip] for clip in mask]
    travelled = torch.tensor(columns)[:, -1] - torch.tensor(columns)[:, 0]
    assert (travelled > 11).all()


def test_the_tint_is_severe_without_a_mask() -> None:
    clean = pictures()
    spoiled, mask = add(clean, "tint", seeded(7))
    assert mask.all()
    assert (defects.mask(spoiled) < 0.5).all()
    assert defects.mask(spoiled).mean() < 1e-3
    assert (severity(spoiled) > 0.015).all()
    half = clean + 0.5 * (spoiled - clean)
    assert (severity(half) < 0.5 * severity(spoiled)).all()
    assert (severity(half) > severity(clean)).all()


def test_severity_rises_with_the_area_and_with_the_contrast() -> None:
    image = torch.full((6, 1, 3, 32, 32), 0.5)
    for i in range(6):
        image[i, ..., :i, :6] = 0.04
    torch.testing.assert_close(
        severity(image), torch.arange(6, dtype=torch.float64) * 6 / 1024, rtol=0.0, atol=1e-4
    )
    fading = torch.full((8, 1, 3, 32, 32), 0.5)
    fading[..., :6, :6] = torch.linspace(0.5, 0.04, 8)[:, None, None, None, None]
    assert (severity(fading).diff() > 0).all()
    assert severity(torch.zeros(1, 1, 3, 32, 32)).item() == pytest.approx(1.0, abs=1e-3)


def test_share_and_seed_choose_the_samples() -> None:
    clean = pictures().repeat(8, 1, 1, 1, 1)
    spoiled, mask = add(clean, "speck", seeded(8), share=0.7)
    again, _ = add(clean, "speck", seeded(8), share=0.7)
    assert torch.equal(spoiled, again)
    hit = mask.flatten(1).any(dim=1)
    assert 0.6 < hit.double().mean() < 0.8
    assert torch.equal(spoiled[~hit], clean[~hit])
    assert not add(clean, "speck", seeded(8), share=0.0)[1].any()
    # A sample's row of numbers decides.
    torch.testing.assert_close(add(clean[:3], "speck", seeded(8), share=0.7)[0], spoiled[:3])


def test_bad_arguments_are_refused() -> None:
    image, clip = pictures()[:2], clips()[:2]
    with pytest.raises(ValueError, match=r"pictures have no defect 'flash'.*patch, blotch"):
        add(image, "flash", seeded())
    with pytest.raises(ValueError, match=r"jump.*cannot be painted.*draw\.Scenes\.centre"):
        add(clip, "jump", seeded())
    with pytest.raises(ValueError, match=r"share=1\.5"):
        add(image, "speck", seeded(), share=1.5)
    with pytest.raises(ValueError, match=r"\[B, M, 3, S, S\]"):
        add(image[:, 0], "speck", seeded())
    with pytest.raises(ValueError, match=r"none on 2 of 2 samples \(the first is number 0\)"):
        add(torch.full((2, 1, 3, 32, 32), 0.5), "patch", seeded())
    with pytest.raises(ValueError, match="uint8"):
        severity((image * 255).to(torch.uint8))
