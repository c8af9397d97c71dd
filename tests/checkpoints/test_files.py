"""Checkpoint folders on disk: damage of every kind is found and named, the previous one is used, kills leave
nothing that looks whole.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvis.checkpoints import disk, files
from rlvis.findings import ConfigError
from rlvis.runs import lock
from tests.whole import checkpoint

PARTS = {"ema.safetensors": b"average" * 99, "config.yaml": b"seed: 3\n"}


def run_of(folder: Path, *steps: int) -> Path:
    """A run folder with whole checkpoints."""
    for step in steps:
        checkpoint(folder, step, **PARTS)
    (folder / "config.yaml").write_text("seed: 3\n")
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", [*PARTS, "meta.json", "SUMS.json", "COMPLETE"])
def test_any_harm_to_any_file_is_found_and_the_previous_one_is_used(
    tmp_path: Path, name: str, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path, 2, 4)
    newest = run / "checkpoints" / "step_000004"
    assert files.choose(run) == newest
    harm(newest / name)
    damage = files.damage(newest)
    assert damage
    assert name in damage[0] or "COMPLETE" in damage[0]
    with caplog.at_level(logging.WARNING):
        assert files.choose(run).name == "step_000002"
    assert "step_000004 is damaged" in caplog.text
    assert damage[0] in caplog.text


def test_without_a_whole_one_each_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2, 4)
    flip(run / "checkpoints" / "step_000002" / "ema.safetensors")
    (run / "checkpoints" / "step_000004" / "COMPLETE").unlink()
    with pytest.raises(ConfigError, match=r"step_000004: COMPLETE: missing.*step_000002: ema\.safet.*wanted"):
        files.choose(run)


def test_what_is_cut_off_shows_without_reading_and_a_flipped_bit_only_by_its_sum(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2, 4)
    older, newer = files.folders(run)
    flip(older / "ema.safetensors")
    cut(newer / "ema.safetensors")
    assert files.damage(older, sums=False) == []
    assert files.damage(newer, sums=False) == ["ema.safetensors: 692 bytes, wanted 693"]
    assert files.damage(older) != []
    assert files.whole(run) == [older]
    assert files.whole(run, sums=True) == []


def test_a_later_format_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT", 2)
        folder = checkpoint(tmp_path, 1)
    assert "format 2" in files.damage(folder)[0]


def test_a_folder_under_another_steps_name_is_refused_with_both(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 4).rename(files.root(tmp_path) / files.name(9))
    with pytest.raises(ConfigError, match=r"step_000009: meta\.json: .*renamed from step 4.* to step 9"):
        files.choose(tmp_path)
    assert files.whole(tmp_path) == [files.root(tmp_path) / files.name(2)]
    checkpoint(tmp_path, 6).rename(tmp_path / "best")  # a copy elsewhere may be called as one likes
    assert files.damage(tmp_path / "best") == []


def test_harm_is_seen_after_a_first_look(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, **PARTS)
    assert files.damage(folder) == []
    before = (folder / "ema.safetensors").stat()
    flip(folder / "ema.safetensors")
    os.utime(folder / "ema.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert files.damage(folder) != []


@pytest.mark.parametrize("pointer", ["step_000099\n", "", None])
def test_a_stale_latest_does_not_matter_and_is_mended(tmp_path: Path, pointer: str | None) -> None:
    """As after a kill between rename and `latest`, or with a folder that is gone."""
    run = run_of(tmp_path, 2, 4)
    if pointer is not None:
        (run / "checkpoints" / "latest").write_text(pointer)
    assert files.choose(run).name == "step_000004"
    disk.tidy(run)
    assert (run / "checkpoints" / "latest").read_text() == "step_000004\n"


def test_what_a_kill_leaves_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2, 4)
    (run / "checkpoints" / ".partial_step_000006" / "engine").mkdir(parents=True)
    checkpoint(tmp_path / "other", 8)
    (tmp_path / "other" / "checkpoints" / "step_000008").rename(run / "checkpoints" / ".removed_step_000008")
    assert [files.step_of(folder) for folder in files.folders(run)] == [2, 4]
    disk.tidy(run)
    assert sorted(os.listdir(run / "checkpoints")) == ["latest", "step_000002", "step_000004"]


def test_pruning_counts_whole_ones_only(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2, 4, 6, 8)
    cut(run / "checkpoints" / "step_000008" / "ema.safetensors")
    assert [folder.name for folder in files.outdated(run, 1)] == ["step_000002", "step_000004"]
    flip(run / "checkpoints" / "step_000006" / "ema.safetensors")
    assert [folder.name for folder in files.outdated(run, 1, sums=True)] == ["step_000002"]
    assert files.outdated(tmp_path / "other", 1) == []


def test_a_removal_cut_short_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, 2, 4)
    monkeypatch.setattr(disk.shutil, "rmtree", lambda folder, **kwargs: None)
    disk.remove(run / "checkpoints" / "step_000002")
    assert [folder.name for folder in files.folders(run)] == ["step_000004"]


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2)
    cut(run / "checkpoints" / "step_000002" / "ema.safetensors")
    folder = checkpoint(tmp_path / "aside", 2, **PARTS)
    disk.publish(folder, run / "checkpoints" / "step_000002")
    assert files.choose(run).name == "step_000002"
    assert os.listdir(run / "checkpoints") == ["step_000002"]


def test_a_run_folder_is_held_while_somebody_works_on_it(tmp_path: Path) -> None:
    with lock.hold(tmp_path), pytest.raises(ConfigError, match="in use"), lock.hold(tmp_path):
        pass
    with lock.hold(tmp_path):
        pass
