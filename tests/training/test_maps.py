"""Maps in whole runs: files, metrics, single stages on any number of ranks, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.record_base import equal
from rlvis.records import Advantages
from rlvis.runs import archive
from rlvis.runtime.dist import World
from rlvis.training import loop
from tests import setting

MAP = S.MapConfig(source=S.MapSource.psm, backbone="tiny")
ON_REWARD = replace(MAP, apply_to=S.ApplyTo.reward)


def make(folder: Path, run_dir: Path, map_config: S.MapConfig = MAP, **train: Any) -> S.Config:
    config = setting.config(
        folder,
        advantage={"map": map_config, "ratio_scope": S.RatioScope.position},
        tracker={"samples_every": train.pop("samples_every", 0), "samples": 2},
        train={"steps": 1, "micro_batch": 4, "updates_per_step": 2} | train,
    )
    config.run_dir = str(run_dir)
    return config


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run_dir / "model" / "transformer").glob("*.safetensors")))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_with_maps_reports_and_draws_them(sd3_folder: Path, tmp_path: Path) -> None:
    loop.train(make(sd3_folder, tmp_path, save_records=True, samples_every=1, shard=8), [])
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert 0 < line["map/mean"] < 1
    assert 0 < line["map/entropy"] < 1
    assert (line["map/max"], line["map/failed"]) == (1.0, 0.0)
    assert 0 < line["time/map"] <= line["time/build"]
    assert line["ratio/max_deviation_first"] == 0.0
    assert sorted(p.name for p in (tmp_path / "maps").glob("*.png")) == ["step_000000.png", "step_000001.png"]
    folder = archive.step_folder(tmp_path / "records", 0)
    kept = archive.load_advantages(folder, World(), 12)
    assert kept.map is not None
    assert kept.map.shape[0] == 12


def test_the_chain_of_single_stages_makes_the_maps_of_a_whole_step(sd3_folder: Path, tmp_path: Path) -> None:
    loop.train(make(sd3_folder, tmp_path / "whole"), [])
    for stage in (S.Stage.rollout, S.Stage.score, S.Stage.weigh, S.Stage.build, S.Stage.update):
        config = make(sd3_folder, tmp_path / stage.value)
        config.stage, config.records = stage, str(tmp_path / "records")
        assert loop.train(config, []).exit_code == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "update"))


def test_maps_on_the_reward_train_otherwise_and_in_single_stages_alike(
    sd3_folder: Path, tmp_path: Path
) -> None:
    loop.train(make(sd3_folder, tmp_path / "whole", ON_REWARD, save_records=True, shard=8), [])
    loop.train(make(sd3_folder, tmp_path / "advantage"), [])
    line, other = (json.loads((tmp_path / d / "metrics.jsonl").read_text()) for d in ("whole", "advantage"))
    assert line["ratio/max_deviation_first"] == 0.0
    for key in ("map/mean", "map/entropy", "advantage/abs_mean"):  # the same maps and scalar advantages
        assert line[key] == pytest.approx(other[key], rel=1e-6)
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "advantage"))
    for stage in (S.Stage.rollout, S.Stage.score, S.Stage.weigh, S.Stage.build, S.Stage.update):
        config = make(sd3_folder, tmp_path / stage.value, ON_REWARD, shard=8)
        config.stage, config.records = stage, str(tmp_path / "records")
        assert loop.train(config, []).exit_code == 0
    kept, alone = (
        archive.load_advantages(archive.step_folder(root, 0), World(), 12)
        for root in (tmp_path / "whole" / "records", tmp_path / "records")
    )
    assert (kept.map, kept.field.shape) == (None, (1, 12, 1, 8, 8))
    torch.testing.assert_close(alone.field, kept.field, rtol=1e-4, atol=1e-4)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "update"))


def test_build_alone_takes_saved_maps_where_the_media_are_gone(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop.train(make(sd3_folder, tmp_path / "run", save_records=True), [])
    folder = archive.step_folder(tmp_path / "run" / "records", 0)
    before = archive.load_advantages(folder, World(), 12)
    config = make(sd3_folder, tmp_path / "again")
    config.stage, config.records = S.Stage.build, str(folder.parent)
    loop.train(config, [])
    assert "taking its saved maps" in caplog.text
    assert equal(archive.load_advantages(folder, World(), 12), before)
    for piece in folder.glob("advantages*"):
        piece.unlink()
    config.run_dir = str(tmp_path / "third")
    with pytest.raises(ValueError, match=r"no media to make maps from .*stage=rollout"):
        loop.train(config, [])


def advantages(rows: int | None, field: bool = False) -> Advantages:
    map_ = (
        None if rows is None else torch.arange(float(rows)).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    )
    if map_ is not None and field:
        return advantages(None).replace(field=5.0 - map_[None])
    ones = torch.ones(3, 4, dtype=torch.bool)
    term = torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)
    return Advantages(
        term=term, coef=torch.ones(1, dtype=torch.float64), names=("grpo",), keep=ones, map=map_
    )


@pytest.mark.parametrize("writers", [1, 5, 11])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("field", [False, True])
def test_any_number_of_ranks_reads_the_maps_of_any_number(
    tmp_path: Path, writers: int, readers: int, field: bool
) -> None:
    whole = advantages(12, field)
    for rank in range(writers):
        world = World(rank=rank, size=writers)
        archive.save_advantages(whole.take(world.rows(12)), tmp_path, world)
    for rank in range(readers):
        world = World(rank=rank, size=readers)
        assert equal(archive.load_advantages(tmp_path, world, 12), whole.take(world.rows(12)))


def test_advantages_of_another_run_do_not_stay(tmp_path: Path) -> None:
    for rank in range(2):
        world = World(rank=rank, size=2)
        archive.save_advantages(advantages(12).take(world.rows(12)), tmp_path, world)
    (tmp_path / "advantages.1of2.json").unlink()
    with pytest.raises(ValueError, match=r"wanted the advantages pieces of all ranks of one build"):
        archive.load_advantages(tmp_path, World(), 12)
    archive.save_advantages(advantages(None), tmp_path, World())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["advantages.json", "advantages.safetensors"]
    assert archive.load_advantages(tmp_path, World(), 12).map is None
    archive.save_advantages(advantages(12), tmp_path, World())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "advantages.0of1.json",
        "advantages.0of1.safetensors",
    ]
    with pytest.raises(ValueError, match="wanted maps of 16 samples, found 12"):
        archive.load_advantages(tmp_path, World(), 16)
