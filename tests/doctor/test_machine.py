"""The machine: versions, idle GPUs, room on the disk and in memory; by hand-made machines."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.doctor import machine
from rlvis.runtime import snapshot
from rlvis.runtime.dist import World
from rlvis.training.parts import Parts
from tests import setting
from tests.doctor import cases

CUDA = World(device=torch.device("cuda", 0))
BIG = machine.Gpu("Big", 80 * 2**30, True)


@pytest.fixture(scope="module")
def parts(sd3_folder: Path) -> Parts:
    return cases.make(sd3_folder)


def test_these_versions_are_those_that_are_declared() -> None:
    (finding,) = machine.versions()
    assert finding.severity == "ok", str(finding)
    assert finding.numbers["torch"] == torch.__version__.split("+")[0]
    assert any(line.startswith("deepspeed") for line in machine.declared()[0])


def test_an_old_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def other(name: str) -> str:
        if name == "av":
            raise metadata.PackageNotFoundError(name)
        return "0.11.0" if name == "diffusers" else version(name)

    monkeypatch.setattr(metadata, "version", other)
    (finding,) = machine.versions()
    assert finding.severity == "warning"
    assert "diffusers 0.11.0 (wanted <0.43,>=0.42)" in finding.what
    assert "av is not installed" in finding.what


@pytest.mark.parametrize(
    ("world", "devices", "model", "level"),
    [
        (World(), [], {}, "ok"),
        (CUDA, [BIG], {}, "ok"),
        (CUDA, [BIG] * 4, {}, "warning"),
        (CUDA, [BIG] * 4, {"path": "asset:tiny_image"}, "ok"),  # nothing to gain
        (CUDA, [machine.Gpu("Old", 2**34, False)], {"dtype": S.Dtype.bfloat16}, "warning"),
    ],
)
def test_idle_and_unfit_gpus_are_seen(
    world: World,
    devices: list[machine.Gpu],
    model: dict[str, Any],
    level: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "visible", lambda: devices)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (finding,) = machine.gpus(setting.config(Path("x"), engine={"device": "auto"}, model=model), world)
    assert finding.severity == level
    if len(devices) == 4 and level == "warning":
        assert "3 of 4 GPUs have nothing to do" in finding.why
        assert "torchrun --nproc-per-node 4" in finding.type


@pytest.mark.parametrize(("free", "level"), [(2**40, "ok"), (2**10, "failure")])
def test_room_on_the_disk(
    parts: Parts, free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    (finding,) = machine.disk(parts, tmp_path / "not" / "there")
    assert finding.severity == level
    assert str(tmp_path) in finding.what
    if level == "failure":
        assert "train.keep=1" in finding.type
        assert finding.numbers["needed_gib"] > finding.numbers["free_gib"]  # type: ignore[operator]


def test_little_room_is_a_warning(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(machine.written(parts).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(1.1 * needed)))
    assert machine.disk(parts, None)[0].severity == "warning"


def test_checkpoints_are_as_large_as_told(parts: Parts, sd3_folder: Path, tmp_path: Path) -> None:
    """Against what is really written, of which a tiny model's file headers are a part."""
    parameters = [p for _, p in parts.policy.trainable()]
    optimizer = torch.optim.AdamW(parameters)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = {"module": parts.policy.module.state_dict(), "optimizer": optimizer.state_dict()}
    snapshot.write({"a.pt": state}, tmp_path)
    for p in parameters:
        p.grad = None
    written = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert written == pytest.approx(machine.written(parts)["of checkpoints"], rel=0.5)
    many = cases.replaced(parts, train={"steps": 50, "save_every": 5, "keep": 3})
    assert machine.written(many)["of checkpoints"] == 4 * machine.written(parts)["of checkpoints"]


def test_memory_of_a_step(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available", lambda: 10**4)
    (finding,) = machine.memory(parts)
    assert finding.severity == "failure"
    assert "train.shard" in finding.type
    monkeypatch.setattr(machine, "available", lambda: None)
    assert machine.memory(parts)[0].severity == "ok"
    # 12 rows, 5 kept states of 4 x 8 x 8 in float32, 4 log-probs a position.
    assert machine.record_bytes(parts) == 12 * (6 * 4 * 64 * 4 + 4 * 64 * 4)


def test_this_machine_has_some_memory() -> None:
    assert (machine.available() or 0) > 2**20
