"""Trackers: what is written is what was logged, on resume nothing is written twice, and a run ends when it
ends.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from rlvis.observe import gallery
from rlvis.observe.trackers import JsonlTracker, TensorboardTracker, Trackers, WandbTracker, build, wandb_mode
from rlvis.schema import TrackerConfig


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no settings of the user's, no network."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb_cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb_data"))


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_jsonl_is_flushed_and_keeps_every_digit(tmp_path: Path) -> None:
    tracker = JsonlTracker()
    tracker.start({}, tmp_path, None)
    value = 0.1 + 0.2
    tracker.log(1, {"reward/mean": value, "reward/invalid_count": 2})
    assert lines(tmp_path) == [
        {"step": 1, "reward/mean": value, "reward/invalid_count": 2.0}
    ]  # before finish
    tracker.finish(0)
    tracker.finish(0)


def test_jsonl_stays_strict_json_with_nan_and_inf(tmp_path: Path) -> None:
    tracker = JsonlTracker()
    tracker.start({}, tmp_path, None)
    tracker.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    tracker.finish(0)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert math.isnan(float(row["a"]))
    assert (float(row["b"]), float(row["c"])) == (math.inf, -math.inf)


def test_resume_drops_what_will_be_written_again_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "rewa')
    tracker = JsonlTracker()
    tracker.start({}, tmp_path, 3)
    tracker.log(3, {"reward/mean": 1.0})
    tracker.finish(0)
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "reward/mean": 1.0}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="resume=auto"):
        JsonlTracker().start({}, tmp_path, None)
    assert lines(tmp_path) == [{"step": 1}]


def test_build_follows_the_configuration() -> None:
    def kinds(config: TrackerConfig, main: bool = True) -> list[type]:
        return [type(t) for t in build(config, name="x", main=main).trackers]

    assert kinds(TrackerConfig()) == [JsonlTracker]
    assert kinds(TrackerConfig(wandb=True, tensorboard=True)) == [
        JsonlTracker,
        WandbTracker,
        TensorboardTracker,
    ]
    assert kinds(TrackerConfig(wandb=True), main=False) == []


def test_no_trackers_is_a_null_object(tmp_path: Path) -> None:
    nothing = Trackers()
    nothing.start({}, tmp_path / "run", None)
    nothing.log(1, {"reward/mean": 1.0})
    nothing.finish(1)
    assert not (tmp_path / "run").exists()


def test_unknown_keys_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    trackers = build(TrackerConfig(), name="x")
    trackers.start({}, tmp_path)
    with pytest.raises(ValueError, match="not in the table"):
        trackers.log(1, {"reward/mean": 1.0, "my/metric": 1.0})
    trackers.finish(1)
    assert lines(tmp_path) == []


def test_finish_reaches_the_trackers_behind_a_broken_one() -> None:
    class Broken(JsonlTracker):
        def finish(self, exit_code: int) -> None:
            raise RuntimeError("disk full")

    class Counting(JsonlTracker):
        codes: list[int] = []  # noqa: RUF012

        def finish(self, exit_code: int) -> None:
            self.codes.append(exit_code)

    with pytest.raises(RuntimeError, match="disk full"):
        Trackers([Broken(), Counting()]).finish(130)
    assert Counting.codes == [130]


@pytest.mark.usefixtures("offline")
def test_wandb_mode_asks_only_whether_there_is_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wandb_mode() == "offline"
    home = tmp_path / "netrc"
    home.write_text("machine other.example login user password x\n")
    monkeypatch.setenv("NETRC", str(home))
    assert wandb_mode() == "offline"
    home.write_text("machine api.wandb.ai login user password x\n")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example:8080")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


@pytest.mark.usefixtures("offline")
def test_wandb_offline_two_runs_in_one_process_then_resume(tmp_path: Path) -> None:
    pytest.importorskip("wandb")

    def run(folder: Path, resume: int | None) -> str:
        trackers = Trackers([WandbTracker(project="p", name=folder.name)])
        trackers.start({"seed": 1}, folder, resume)
        trackers.log(1, {"reward/mean": 0.5})
        picture = gallery.write_samples(folder, 1, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["black"])
        trackers.image(1, "samples", picture)
        trackers.finish(0)
        return json.loads((folder / "wandb_run.json").read_text())["id"]

    first, second = run(tmp_path / "one", None), run(tmp_path / "two", None)
    assert first != second
    for name, run_id in (("one", first), ("two", second)):
        (folder,) = (tmp_path / name / "wandb").glob("offline-run-*")
        assert folder.name.endswith(run_id)
        (events,) = folder.glob("*.wandb")
        until = time.monotonic() + 20  # wandb's own process writes; finish may return a moment before
        while b"reward/mean" not in events.read_bytes() and time.monotonic() < until:
            time.sleep(0.05)
        assert b"reward/mean" in events.read_bytes()
        assert list(folder.glob("files/media/images/samples_*.png"))
    assert run(tmp_path / "one", 2) == first


def test_tensorboard_has_the_same_keys_and_purges_on_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = gallery.write_samples(tmp_path, 1, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["black"])
    for resume, steps in ((None, (1, 2, 3)), (2, (2,))):
        tracker = TensorboardTracker()
        tracker.start({"seed": 1}, tmp_path, resume)
        for step in steps:
            tracker.log(step, {"reward/mean": 0.25 * step, "reward/clip/std": 1.0})
        tracker.image(steps[0], "samples", picture)
        tracker.finish(0)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean", "reward/clip/std"]
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.5)]
    assert events.Tags()["images"] == ["samples"]


def test_an_alert_reaches_every_tracker(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trackers = Trackers([JsonlTracker(), TensorboardTracker()])
    trackers.start({}, tmp_path)
    trackers.alert(3, "sentinel, step 3", "saturation is 0.9")
    trackers.finish(0)
    [events] = (tmp_path / "tensorboard").glob("events*")
    assert b"saturation is 0.9" in events.read_bytes()
    assert lines(tmp_path) == []  # alarms.jsonl has it
    Trackers().alert(3, "nobody", "listens")
