"""Runs that lose their disk, their folder or their life: told clearly, never a half checkpoint, and resumed
bit for bit.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.checkpoints import files, resume
from rlvis.findings import ConfigError
from rlvis.runtime import snapshot
from rlvis.schema import plain
from rlvis.training import loop, pipeline, run_step
from tests import setting

ROOT = Path(__file__).parents[2]


def make(folder: Path, run_dir: Path, steps: int, **groups: Any) -> S.Config:
    train = {"steps": steps, "micro_batch": 4, "updates_per_step": 1, "save_every": 1, "keep": 9}
    model = {"ema": S.EmaConfig()} | groups.pop("model", {})
    config = setting.config(folder, model=model, train=train | groups.pop("train", {}), **groups)
    config.run_dir = str(run_dir)
    return config


def resumed(config: S.Config, run: Path, **changes: Any) -> S.Config:
    return replace(config, run_dir=None, resume=str(run), **changes)


def exported(run: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run / "model" / "transformer").glob("*.safetensors")))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(sd3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that nothing happened to, with a checkpoint after each."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert loop.train(make(sd3_folder, run, 3), []).exit_code == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """The same run as if it had been killed after its second step."""
    copy = tmp_path / "elsewhere" / "run"
    shutil.copytree(whole, copy)
    for later in (copy / "checkpoints" / "step_000003", copy / "model"):
        shutil.rmtree(later)
    return copy


@pytest.mark.parametrize(
    "part",
    [
        "engine/mp_rank_00_model_states.pt",
        "ema.safetensors",
        "memory/history.safetensors",
        "meta.json",
        "SUMS.json",
    ],
)
def test_a_moved_run_with_a_damaged_newest_checkpoint_ends_as_if_nothing_had_happened(
    sd3_folder: Path, whole: Path, run: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    flip(run / "checkpoints" / "step_000002" / part)
    with caplog.at_level(logging.INFO):
        assert loop.train(resumed(make(sd3_folder, run, 3), run), []).exit_code == 0
    assert f"step_000002 is damaged ({part.split('.')[0]}" in caplog.text
    assert "resumed after 1 training steps" in caplog.text
    assert same(exported(run), exported(whole))
    assert files.damage(run / "checkpoints" / "step_000002") == []  # written anew on the way
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert "time/checkpoint" in lines[2]


def test_a_checkpoint_says_where_it_comes_from(whole: Path) -> None:
    meta = files.meta(whole / "checkpoints" / "step_000003")
    assert (meta["step"], meta["world_size"], meta["zero_stage"], meta["ema"]) == (3, 1, 0, True)
    assert meta["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(meta["git"] or {"commit": 0, "dirty": 0}) == {"commit", "dirty"}
    saved = yaml.safe_load((whole / "checkpoints" / "step_000003" / "config.yaml").read_text())
    assert saved == yaml.safe_load((whole / "config.yaml").read_text())


def test_a_disk_that_fills_up_in_between_is_survived(
    sd3_folder: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(monkeypatch, lambda number: number == 2)
    run = tmp_path / "run"
    assert loop.train(make(sd3_folder, run, 3), []).exit_code == 0
    assert [path.name for path in files.whole(run, sums=True)] == ["step_000001", "step_000003"]
    assert "the checkpoint of step 2 was not written" in caplog.text
    assert "No space left on device" in caplog.text
    assert same(exported(run), exported(whole))


def test_a_failed_last_write_is_a_failed_run_that_can_go_on(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil(patch, lambda number: number == 2)
        assert loop.train(make(sd3_folder, run, 2), []).exit_code == 1
    assert [path.name for path in files.folders(run)] == ["step_000001"]
    assert loop.train(resumed(make(sd3_folder, run, 2), run), []).exit_code == 0


def spoil(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
    """Fill the disk in the middle of those checkpoints, counted from 1."""
    write, count = snapshot.write, [0]

    def full(taken: Any, folder: Path) -> list[str]:
        count[0] += 1
        names = write(taken, folder)
        if which(count[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return names

    monkeypatch.setattr(snapshot, "write", full)


@pytest.mark.parametrize("what", [".", "checkpoints"])
def test_a_folder_removed_under_the_run(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The run folder: a clear end, and it is not made anew. The checkpoints alone: the run goes on."""
    run, train_step = tmp_path / "run", pipeline.train_step

    def removing(parts: Any, memory: Any, step: int, *rest: Any) -> Any:
        if step == 1:
            shutil.rmtree(run / what)
        return train_step(parts, memory, step, *rest)

    monkeypatch.setattr(run_step, "train_step", removing)
    if what == "checkpoints":
        assert loop.train(make(sd3_folder, run, 2), []).exit_code == 0
        assert [path.name for path in files.whole(run, sums=True)] == ["step_000002"]
        return
    with pytest.raises(RuntimeError, match=r"run folder .* is gone: it was removed or moved"):
        loop.train(make(sd3_folder, run, 2), [])
    assert not run.exists()


def test_a_changed_learning_rate_is_refused_then_allowed_and_wins_over_the_saved_one(
    sd3_folder: Path, whole: Path, run: Path
) -> None:
    config = resumed(make(sd3_folder, run, 3), run)
    before, now = resume.saved_settings(run), plain(replace(config, optim=replace(config.optim, lr=0.1)))
    with pytest.raises(
        ConfigError, match=r"optim\.lr was 0\.001 and is now 0\.1.*resume_allow=\[optim\.lr\]"
    ):
        resume.merge_settings(before, now, ["optim.lr"])
    allowed = resume.merge_settings(before, now, ["optim.lr"], ["optim.lr"])
    assert allowed["optim"]["lr"] == 0.1
    config = resumed(make(sd3_folder, run, 3, optim={"lr": 0.1}), run, resume_allow=["optim.lr"])
    assert loop.train(config, []).exit_code == 0
    changes = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    assert changes == [{"step": 2, "key": "optim.lr", "before": 0.001, "after": 0.1}]
    assert resume.saved_settings(run)["optim"]["lr"] == 0.1
    assert resume.saved_settings(run)["resume_allow"] == []
    start, little, much = (average(folder) for folder in (run, whole, run))
    start = average(whole, 2)
    moved = {name: float((weights - start[name]).abs().max()) for name, weights in much.items()}
    usual = {name: float((weights - start[name]).abs().max()) for name, weights in little.items()}
    assert max(moved.values()) > 20 * max(usual.values())  # 100 times the rate, in one step of Adam


def average(run: Path, step: int = 3) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step_{step:06d}" / "ema.safetensors")


@pytest.mark.parametrize(
    ("before", "now", "allowed", "message"),
    [
        ({"optim": {"lr": 1}}, {"optim": {"lr": 1}}, ["optim.lr"], "optim.lr, which does not change"),
        (
            {"optim": {"lr": 1}},
            {"optim": {"lr": 2}},
            ["optim.l"],
            r"optim\.l, which is no key; nearest: optim\.lr",
        ),
        (
            {"engine": {"stage": 0}},
            {"engine": {"stage": 2}},
            ["engine"],
            "stage was 0 and is now 2, which cannot",
        ),
        (
            {"model": {"ema": None}},
            {"model": {"ema": {"decay": 0.9}}},
            ["model.ema"],
            "ema had nothing and has now",
        ),
        (
            {"model": {"ema": {"decay": 0.9}}},
            {"model": {"ema": None}},
            ["model"],
            "decay and has now nothing",
        ),
        ({"model": {"lora": {"rank": 2}}}, {"model": {"lora": {"rank": 4}}}, ["model"], "are those adapters"),
    ],
)
def test_a_permission_that_is_of_no_use_or_impossible_is_refused(
    before: dict[str, Any], now: dict[str, Any], allowed: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resume.merge_settings(before, now, ["*"], allowed)


def test_a_section_may_be_allowed_and_its_neighbours_are_still_refused() -> None:
    before = {"optim": {"lr": 1, "eps": 1}, "seed": 0}
    now = {"optim": {"lr": 2, "eps": 3}, "seed": 0}
    assert resume.merge_settings(before, now, ["*"], ["optim"]) == now
    with pytest.raises(ConfigError, match=r"seed was 0 and is now 1\. .*resume_allow=\[seed\]"):
        resume.merge_settings(before, now | {"seed": 1}, ["*"], ["optim"])


def killed(kills: int, steps: int) -> str:
    """What scripts/kill_loop.py says."""
    command = [sys.executable, str(ROOT / "scripts" / "kill_loop.py"), f"--kills={kills}", f"--steps={steps}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1700, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(1800)
def test_kill_minus_nine_changes_no_bit() -> None:
    assert re.search("survived 3 of 3 kills", killed(3, 6))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twelve_kills_change_no_bit() -> None:
    assert re.search("survived 12 of 12 kills", killed(12, 12))
