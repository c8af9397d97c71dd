"""A backbone of the user's own, and any model of transformers or timm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers

from rlvis.advantage.maps import backbone, opening, psm
from rlvis.advantage.maps.measure import measured
from rlvis.findings import ConfigError
from rlvis.schema import Dtype, MapConfig, MapSource
from tests.advantage.maps.test_backbone import SMALL, dinov2, load, resnet, sam, siglip

CPU = torch.device("cpu")
MODULE = """
import torch

class Cells:
    def __init__(self, cell=4):
        self.cell = cell
    def __call__(self, frames):
        cells = torch.nn.functional.pixel_unshuffle(frames, self.cell)
        return cells.flatten(2).mT, tuple(cells.shape[2:])

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 8, 8)
    def forward(self, frames):
        out = self.conv(frames)
        return out.flatten(2).mT, (out.shape[2], out.shape[3])

class Wrong:
    def __init__(self, what):
        self.what = what
    def __call__(self, frames):
        return eval(self.what, {"f": frames, "torch": torch})

class Short:
    def __call__(self):
        pass

def function(frames):
    return frames, (1, 1)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_features.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_features", None)


def own(name: str, **kwargs: Any) -> MapConfig:
    return MapConfig(source=MapSource.psm, backbone=f"own_features.{name}", backbone_kwargs=kwargs)


def test_a_class_of_ones_own_makes_maps() -> None:
    media = torch.randint(0, 256, (2, 1, 3, 32, 48), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    for config in (own("Cells", cell=8), own("Net")):
        make = psm.build(config, CPU, 32, 48)
        maps = make(media, torch.ones(1, 4, 6), (4, 1, 4, 6))
        assert maps.shape == (2, 1, 4, 6)
        assert 0 <= float(maps.min()) < float(maps.max()) <= 1
    assert not any(p.requires_grad for p in make.features.parameters())  # type: ignore[attr-defined]
    assert backbone.weight_bytes(config) == "a class of your own may load anything"
    assert backbone.wanted(config) == ("advantage.map.backbone", "", "", None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (own("function"), "it is no class whose instances can be called"),
        (own("Short"), "its __call__.* takes 1 positional arguments; it is called with self, frames"),
        (own("Cells", cells=2), r"has no argument 'cells'; did you mean cell\?"),
        (own("Wrong", what="f"), "for one frame of 32 x 48 it returns a Tensor, no pair"),
        (own("Wrong", what="(f, (4, 6))"), r"tokens that are \[1, 3, 32, 48\] torch\.float32"),
        (own("Wrong", what="(f.flatten(2).mT, (4, 6))"), r"tokens \[1, 1536, 3\] for a grid of 4 x 6"),
        (own("Wrong", what="(f.flatten(2).mT, 1536)"), "the grid 1536"),
        (own("Wrong", what="(f.flatten(2).mT, (1, 1536))"), r"the grid \(1, 1536\)"),
        (own("Wrong", what="(f.flatten(2).mT / 0, (32, 48))"), "tokens that are not finite"),
    ],
)
def test_a_class_of_another_form_is_refused(config: MapConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        opening.build(config, CPU, 32, 48)
    if "cells" not in message:
        assert "def __call__(self, frames):" in str(raised.value)


def vit() -> Any:
    config = transformers.ViTConfig(**SMALL, patch_size=8, image_size=64)
    return transformers.ViTForImageClassification(config)  # its checkpoint lacks the pooler


def clip() -> Any:
    sizes: Any = {**SMALL, "vocab_size": 50}
    vision: Any = {**SMALL, "patch_size": 8, "image_size": 64}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=sizes, vision_config=vision))


@pytest.mark.parametrize(
    ("build", "layout"),
    [
        (vit, (8, 1, None)),
        (clip, (8, 1, None)),
        (dinov2, (8, 1, None)),
        (siglip, (8, 0, None)),
        (sam, (16, 0, (64, 64))),
        (resnet, (32, 0, None)),
    ],
)
def test_transformers_measures_what_a_family_knows(tmp_path: Path, build: Any, layout: Any) -> None:
    torch.manual_seed(0)
    build().save_pretrained(tmp_path)
    found = load("transformers", tmp_path)
    assert (found.patch, found.prefix, found.fixed) == layout
    picture = torch.rand(2, 3, 130, 162)
    tokens, grid = found(picture)
    assert tokens.shape[:2] == (2, grid[0] * grid[1])
    if build in (dinov2, siglip, sam, resnet):
        assert torch.equal(tokens, load(build.__name__, tmp_path)(picture)[0])
    config = MapConfig(backbone="transformers", backbone_path=str(tmp_path))
    assert backbone.weight_bytes(config) == sum(p.numel() * 4 for p in found.module.parameters())


def test_a_model_without_a_grid_is_refused_in_words(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SMALL, vocab_size=50)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a bert, which gives no grid of tokens for a frame"):
        load("transformers", tmp_path)
    with pytest.raises(ConfigError, match=r"none is named; type advantage\.map\.backbone_path=google/vit"):
        load("transformers")


@pytest.mark.parametrize(
    ("name", "layout", "width"),
    [
        ("test_vit", (16, 1, None), 64),
        ("test_resnet", (32, 0, None), 96),
        ("test_maxvit", (32, 0, (160, 160)), 128),
    ],
)
def test_timm_opens_a_folder(tmp_path: Path, name: str, layout: Any, width: int) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name).eval()
    timm.models.save_for_hf(module, tmp_path, safe_serialization=True)
    found = load("timm", tmp_path)
    assert (found.patch, found.prefix, found.fixed) == layout
    tokens, grid = found(torch.rand(2, 3, 130, 162))
    assert tokens.shape == (2, grid[0] * grid[1], width)
    config = MapConfig(backbone="timm", backbone_path=str(tmp_path), backbone_dtype=Dtype.bfloat16)
    assert backbone.weight_bytes(config) == sum(p.numel() * 2 for p in found.module.parameters())
    assert backbone.wanted(config)[1:] == (str(tmp_path), "model.safetensors", None)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"there is no model\.safetensors beside a config\.json"):
        load("timm", tmp_path)


def test_a_layer_of_timm_s(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    found = load("timm", tmp_path, layer=2)
    assert found.patch == 8
    tokens, grid = found(torch.rand(1, 3, 32, 48))
    assert (tokens.shape, grid) == ((1, 24, 48), (4, 6))
    with pytest.raises(ConfigError, match=r"layer=9 .*type advantage\.map\.layer=null"):
        load("timm", tmp_path, layer=9)


def test_features_of_ones_own_get_enlarged_frames() -> None:
    config = replace(own("Cells", cell=4), enlarge=2.0)
    tokens, grid = opening.build(config, CPU, 16, 12)(torch.rand(1, 3, 16, 12))
    assert (tokens.shape, grid) == ((1, 48, 48), (8, 6))
    with pytest.raises(ConfigError, match=r"the grid \(4, 3\)"):
        opening.build(own("Cells", cell=4), CPU, 16, 12)


def test_timm_s_names_stand_for_repositories() -> None:
    for path, revision, wanted in (
        ("resnet18", None, "timm/resnet18.a1_in1k"),
        ("resnet18", "main", "timm/resnet18.a1_in1k"),
        ("someone/model", "v1", "someone/model"),
        ("hf-hub:someone/model", None, "someone/model"),
    ):
        config = MapConfig(backbone="timm", backbone_path=path, backbone_revision=revision)
        assert backbone.wanted(config) == (
            "advantage.map.backbone_path",
            wanted,
            "model.safetensors",
            revision,
        )
    with pytest.raises(
        ConfigError, match=r"timm knows no such model.*; type advantage\.map\.backbone_path=resnet"
    ):
        backbone.wanted(MapConfig(backbone="timm", backbone_path="resnet81"))


class TestMeasured:
    """Layouts of functions that answer as models do."""

    def test_tokens_with_a_prefix(self) -> None:
        def hidden(height: int, width: int) -> torch.Tensor:
            return torch.zeros(1, 3 + (height // 8) * (width // 8), 5)

        assert measured(hidden, 64, patch=8) == (8, 3, None)
        assert measured(hidden, 64, prefix=3) == (8, 3, None)

    def test_one_size_only(self) -> None:
        def hidden(height: int, width: int) -> torch.Tensor:
            if (height, width) != (64, 64):
                raise ValueError("64 x 64 only")
            return torch.zeros(1, 64, 5)

        assert measured(hidden, 64, patch=8) == (8, 0, (64, 64))

    def test_what_is_no_grid(self) -> None:
        for shape, reason in (
            ((1, 5), "neither tokens"),
            ((1, 10, 5), "no square grid"),
            ((1, 5, 1, 1), "1 x 1"),
        ):
            with pytest.raises(ValueError, match=reason):
                measured(lambda height, width, shape=shape: torch.zeros(shape), 64, prefix=0)  # type: ignore[misc]
