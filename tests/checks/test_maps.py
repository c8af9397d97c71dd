"""Contradictions around maps: found alone, with a remedy that is accepted."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from rlvis.advantage.maps.choice import chosen
from rlvis.checks.config import check
from rlvis.compose.command import compose

ON_REWARD = ["advantage=vipo", "advantage.ratio_scope=position", "advantage.map.apply_to=reward"]
MISTAKES = [
    (["advantage.ratio_scope=pooled"], "advantage.map.source=none"),
    (
        ["advantage=vipo", "advantage.ratio_scope=pooled", "advantage.map.map_norm=minmax"],
        "shrink with the map's mean",
    ),
    (["advantage=vipo", "advantage.guard.bias=sample"], "whose gradient no map leads"),
    (
        ["advantage=vipo", "advantage.map.backbone=tiny", "advantage.map.backbone_revision=main"],
        "backbone_revision=main does nothing",
    ),
    (
        ["advantage=vipo", "advantage.map.aggregation=first_pc", "advantage.map.components=5"],
        "components=5 does nothing",
    ),
    ([*ON_REWARD, "advantage.ratio_scope=sample"], "sample has one ratio a sample"),
    (
        [*ON_REWARD, "advantage.ratio_scope=pooled", "advantage.map.map_norm=mean1"],
        "pooled has one ratio a sample",
    ),
    ([*ON_REWARD, "advantage.preset=ddpo"], "got advantage.preset=ddpo"),
    ([*ON_REWARD, "advantage.preset=gdpo"], "got advantage.preset=gdpo"),
    ([*ON_REWARD, "advantage.std_scope=batch"], "positions of different groups"),
    ([*ON_REWARD, "advantage.combine=gdpo"], "sums of scalar advantages over the batch"),
    (["advantage=vipo", "advantage.map.batch=0"], "batch=0: wanted at least 1"),
    (["advantage=vipo", "advantage.map.components=0"], "components=0: wanted at least 1"),
    (["advantage=vipo", "advantage.map.sigma=-1"], "sigma=-1: wanted at least 0"),
    (["advantage=vipo", "advantage.map.sigma=1e10"], "sigma=1e+10: wanted at most 1000"),
    (
        ["advantage=vipo", "advantage.map.backbone=timm"],
        "backbone=timm opens any model of that library, and none is named",
    ),
    (
        ["advantage=vipo", "advantage.map.backbone_kwargs={a: 1}"],
        "advantage.map.backbone_kwargs={'a': 1} does nothing with advantage.map.backbone=tiny",
    ),
    (
        ["advantage=vipo", "advantage.map.backbone=dinov2"],
        "frames of 32 x 32 pixels give the backbone dinov2, whose patches are 14 pixels, a grid of 2 x 2",
    ),
    (
        ["advantage=vipo", "model.height=8", "advantage.map.enlarge=1.5"],
        "8 x 32 pixels, enlarged 1.5 times, give the backbone tiny, whose patches are 4 pixels, a grid of 3",
    ),
    (["advantage=vipo", "advantage.map.enlarge=0.5"], "enlarge=0.5: wanted at least 1"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_contradiction_is_found_alone_and_its_remedy_is_accepted(words: list[str], message: str) -> None:
    (error,) = check(compose(words).typed())
    assert message in error.what
    shown = itertools.takewhile(lambda word: "=" in word, shlex.split(error.type))
    remedy = [word.rstrip(",") for word in shown]
    assert remedy, error
    named = {word.split("=")[0] for word in remedy}
    kept = [word for word in words if word.split("=")[0] not in named]
    assert check(compose([*kept, *remedy]).typed()) == []


@pytest.mark.parametrize("word", ["batch=2", "backbone=tiny", "on_map_error=uniform", "apply_to=reward"])
def test_a_key_without_a_map_does_nothing(word: str) -> None:
    (error,) = check(compose([f"advantage.map.{word}"]).typed())
    assert error.what == f"advantage.map.{word} does nothing with advantage.map.source=none"
    assert check(compose([error.type.rpartition(", or ")[2]]).typed()) == []


@pytest.mark.parametrize("option", ["vipo", "vipo_released", "bpgo_vipo"])
def test_the_presets_make_a_run(option: str) -> None:
    assert check(compose([f"advantage={option}"]).typed()) == []
    assert check(compose([f"advantage={option}", "advantage.map.backbone=tiny"]).typed()) == []
    both = ["advantage.ratio_scope=pooled", "advantage.map.map_norm=mean1"]
    assert check(compose([f"advantage={option}", *both]).typed()) == []


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "tiny"),
        (["model.path=some/repository"], "dinov2"),
        (["advantage.map.backbone_path=some/repository"], "dinov2"),
        (["advantage.map.backbone=sam"], "sam"),
    ],
)
def test_auto_takes_the_embedded_backbone_for_embedded_policies(words: list[str], wanted: str) -> None:
    config = compose(["advantage=bpgo_vipo", *words]).typed()
    assert chosen(config).backbone == wanted
    assert replace(chosen(config), backbone="auto") == replace(config.advantage.map, backbone="auto")


def test_the_patch_is_known_ahead_from_a_folder(tmp_path: Path) -> None:
    words = ["advantage=vipo", "advantage.map.backbone=resnet", f"advantage.map.backbone_path={tmp_path}"]
    assert check(compose(words).typed()) == []  # that it is empty is told where it is loaded
    (tmp_path / "config.json").write_text('{"depths": [1, 1, 1, 1], "downsample_in_first_stage": false}')
    (error,) = check(compose(words).typed())
    assert "patches are 32 pixels, a grid of 1 x 1" in error.what
    (error,) = check(compose([*words, "advantage.map.layer=3"]).typed())
    assert "patches are 16 pixels, a grid of 2 x 2" in error.what
    assert check(compose([*words, "advantage.map.layer=2"]).typed()) == []


@pytest.mark.parametrize("option", ["vipo", "bpgo_vipo"])
@pytest.mark.parametrize("more", ["advantage.preset=dance", "advantage.combine=separate_terms"])
def test_a_map_on_the_reward_makes_a_run(option: str, more: str) -> None:
    words = [f"advantage={option}", *ON_REWARD[1:], more]
    assert check(compose(words).typed()) == []
