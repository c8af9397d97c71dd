"""Each family with random weights of a tiny size: tokens on the right grid, prefixes dropped, errors that
help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rlvis.advantage.maps import backbone, psm
from rlvis.advantage.maps.backbones.dinov2 import Dinov2
from rlvis.advantage.maps.backbones.tiny import Tiny
from rlvis.data.world import draw, language
from rlvis.schema import Dtype, MapConfig, MapSource

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
PICTURE = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))


def load(name: str, path: Path | None = None, **more: Any) -> backbone.Backbone:
    where = None if path is None else str(path)
    return backbone.load(MapConfig(backbone=name, backbone_path=where, **more), torch.device("cpu"))


def dinov2() -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, patch_size=8, image_size=64))


def registers() -> Any:
    config = transformers.Dinov2WithRegistersConfig(
        **SMALL, patch_size=8, image_size=64, num_register_tokens=3
    )
    return transformers.Dinov2WithRegistersModel(config)


def dinov3() -> Any:
    config = transformers.DINOv3ViTConfig(**SMALL, patch_size=8, image_size=64, num_register_tokens=4)
    return transformers.DINOv3ViTModel(config)


def siglip() -> Any:
    return transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(**SMALL, patch_size=8, image_size=64)
    )


def sam() -> Any:
    config = transformers.SamVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        output_channels=12,
        image_size=64,
        patch_size=16,
        mlp_dim=16,
        global_attn_indexes=[0],
        window_size=2,
    )
    return transformers.SamVisionModel(config)


def resnet() -> Any:
    return transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1])
    )


FAMILIES = [
    (dinov2, "dinov2", (5, 7), 16),
    (registers, "dinov2", (5, 7), 16),
    (dinov3, "dinov3", (5, 7), 16),
    (siglip, "siglip", (5, 7), 16),
    (sam, "sam", (4, 4), 12),  # resized to the 64 x 64 it takes
    (resnet, "resnet", (4, 5), 12),
]


@pytest.mark.parametrize(("build", "kind", "grid", "width"), FAMILIES)
def test_a_saved_model_gives_tokens_on_its_grid(
    tmp_path: Path, build: Any, kind: str, grid: tuple[int, int], width: int
) -> None:
    torch.manual_seed(0)
    module = build()
    module.save_pretrained(tmp_path)
    model = load(kind, tmp_path)
    picture = PICTURE if kind != "resnet" else torch.rand(2, 3, 130, 170)
    tokens, shape = model(picture)
    assert shape == model.grid(*picture.shape[-2:]) == grid
    assert tokens.shape == (2, grid[0] * grid[1], width)
    assert tokens.dtype == torch.float32
    assert not any(p.requires_grad for p in model.module.parameters())
    narrow = load(kind, tmp_path, backbone_dtype=Dtype.bfloat16)(picture)[0]
    assert narrow.dtype == torch.float32
    assert float((narrow - tokens).norm() / tokens.norm()) < 0.05  # bfloat16 keeps 8 bits


def test_the_patches_are_those_of_the_model_itself() -> None:
    """Row by row, without the class token and the registers."""
    torch.manual_seed(0)
    module = registers().eval()
    model = Dinov2(module)
    tokens, _ = model(PICTURE)
    pixels = (PICTURE - model.mean) / model.std
    assert torch.equal(tokens, module(pixel_values=pixels).last_hidden_state[:, 4:])


def test_frames_are_rounded_down_to_the_patch() -> None:
    torch.manual_seed(0)
    model = Dinov2(dinov2().eval())
    tokens, grid = model(torch.rand(1, 3, 47, 63))
    assert grid == (5, 7)
    assert tokens.shape[1] == 35


def test_a_processor_beside_the_weights_gives_its_normalisation(tmp_path: Path) -> None:
    siglip().save_pretrained(tmp_path)
    assert load("siglip", tmp_path).mean.flatten().tolist() == pytest.approx(backbone.IMAGENET[0])
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1]}'
    )
    model = load("siglip", tmp_path)
    assert (model.mean.flatten().tolist(), model.std.flatten().tolist()) == ([0.5] * 3, [0.25, 0.5, 1.0])


def test_a_small_frame_names_what_helps() -> None:
    with pytest.raises(ValueError, match=r"12 x 60 .* patches are 8 pixels.* 1 x 7; a map needs") as raised:
        Dinov2(dinov2()).grid(12, 60)
    assert raised.match(r"type advantage\.map\.enlarge=6, or model\.height=64 model\.width=64 and more")
    assert Dinov2(dinov2(), enlarge=6).grid(12, 60) == (9, 45)
    with pytest.raises(ValueError, match=r"enlarged 1\.5 times, .* 2 x 11"):
        Dinov2(dinov2(), enlarge=1.5).grid(12, 60)


@pytest.mark.parametrize(
    ("frame", "grid"),
    [
        ((512, 512), (64, 64)),
        ((520, 512), (64, 63)),
        ((1024, 512), (90, 45)),
        ((40, 5120), (5, 640)),
        ((32, 9000), (4, 1024)),
    ],
)
def test_more_than_4096_tokens_are_resized_away(frame: tuple[int, int], grid: tuple[int, int]) -> None:
    found = Dinov2(dinov2()).grid(*frame)
    assert found == grid
    assert found[0] * found[1] <= 4096


def test_the_log_tells_once_that_frames_are_made_smaller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make = psm.build(MapConfig(source=MapSource.psm, backbone="tiny"), torch.device("cpu"), 264, 512)
    assert "264 x 512 pixels would be 66 x 128 tokens, more than 4096" in caplog.text
    assert "resized to 180 x 356 pixels, 45 x 89 tokens" in caplog.text
    caplog.clear()
    tokens, grid = make.features(torch.rand(1, 3, 264, 512))
    assert (tokens.shape[1], grid) == (45 * 89, (45, 89))
    psm.build(MapConfig(source=MapSource.psm, backbone="tiny"), torch.device("cpu"), 256, 256)
    assert "tokens" not in caplog.text


def test_enlarged_frames_are_those_resized_before() -> None:
    config = MapConfig(source=MapSource.psm, backbone="tiny", enlarge=2.0)
    make = psm.build(config, torch.device("cpu"), 16, 24)
    small = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, size=(32, 48), mode="bilinear", antialias=True)
    tokens, grid = make.features(small)
    assert grid == (8, 12)
    assert torch.equal(tokens, load("tiny")(large)[0])


@pytest.mark.parametrize(
    ("build", "kind", "layer", "grid", "width"),
    [
        (dinov2, "dinov2", 1, (4, 6), 16),
        (registers, "dinov2", 0, (4, 6), 16),
        (siglip, "siglip", 1, (4, 6), 16),
        (sam, "sam", 1, (4, 4), 16),
        (resnet, "resnet", 1, (8, 12), 8),
        (resnet, "resnet", 2, (4, 6), 8),
        (resnet, "transformers", 2, (4, 6), 8),
        (dinov2, "transformers", 1, (4, 6), 16),
    ],
)
def test_a_layer(
    tmp_path: Path, build: Any, kind: str, layer: int, grid: tuple[int, int], width: int
) -> None:
    torch.manual_seed(0)
    build().save_pretrained(tmp_path)
    model = load(kind, tmp_path, layer=layer)
    frames = torch.rand(1, 3, 32, 48)
    tokens, shape = model(frames)
    assert shape == model.grid(32, 48) == grid
    assert tokens.shape == (1, grid[0] * grid[1], width)
    if kind != "sam":  # which resizes
        more = {"interpolate_pos_encoding": True} if build is siglip else {}
        pixels = (frames - model.mean) / model.std
        whole = model.module(pixel_values=pixels, output_hidden_states=True, **more).hidden_states[layer]
        assert torch.equal(tokens, whole[:, model.prefix :] if whole.ndim == 3 else whole.flatten(2).mT)


def test_a_layer_behind_the_last(tmp_path: Path) -> None:
    resnet().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"layer=5: resnet .* has 4 layers or stages; type advantage\.map\.layer=4"
    ):
        load("resnet", tmp_path, layer=5)


def test_a_backbone_of_one_size_is_not_enlarged(tmp_path: Path) -> None:
    sam().save_pretrained(tmp_path)
    config = MapConfig(backbone="sam", backbone_path=str(tmp_path), enlarge=2.0)
    with pytest.raises(ValueError, match=r"enlarge=2 does nothing with sam .* 64 x 64 pixels alone"):
        psm.build(config, torch.device("cpu"), 32, 32)


def test_another_family_nothing_there_and_half_a_model(tmp_path: Path) -> None:
    dinov2().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a dinov2, but advantage\.map\.backbone=sam takes sam"):
        load("sam", tmp_path)
    with pytest.raises(
        ValueError, match=r"no such folder, and not available from the hub.*backbone_path=FOLDER"
    ):
        load("dinov2", tmp_path / "none")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is not complete: .*model\.safetensors"):
        load("dinov2", tmp_path)


def test_the_tiny_backbone_is_small_and_comes_with_the_package() -> None:
    model = load("tiny")
    assert model.grid(32, 32) == (8, 8)
    assert sum(f.stat().st_size for f in Path(Tiny.usual).iterdir()) <= 1_000_000


@pytest.mark.parametrize("ground", [(0.5, 0.5, 0.5), (0.2, 0.5, 0.3)])
def test_the_tiny_backbone_tells_things_from_the_ground(ground: tuple[float, float, float]) -> None:
    """Without knowing the ground's colour; its untrained twin orders 5 to 10 % of the pairs wrongly."""
    names = language.prompts(kinds=("single", "relation"))
    scene = draw.scenes(names, torch.Generator().manual_seed(3))
    share = draw.coverage_masks(scene)[:, 0].amax(1)
    offset = torch.tensor(ground)[:, None, None] - torch.tensor(draw.BACKGROUND)[:, None, None]
    pictures = (draw.paint(scene)[:, 0] + (1 - share[:, None]) * offset) * 255
    config = MapConfig(source=MapSource.psm, backbone="tiny", sigma=0.0)
    make = psm.build(config, torch.device("cpu"), 32, 32)
    maps = make(pictures.round().to(torch.uint8)[:, None], torch.ones(1, 8, 8), (4, 1, 8, 8))[:, 0]
    thing = torch.nn.functional.avg_pool2d(share[:, None], 4)[:, 0] > 0.5
    inside, outside = zip(*((m[t], m[~t]) for m, t in zip(maps, thing, strict=True)), strict=True)
    right = [(i[:, None] > o).double().mean() for i, o in zip(inside, outside, strict=True)]
    assert float(torch.stack(right).mean()) > 0.96
