"""Actions of the sentinels in whole runs of a tiny policy, whose samples are made to look unusual."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.checkpoints import export, files
from rlvis.observe import step_statistics
from rlvis.training import guard as guarding
from rlvis.training import loop
from tests import setting

# Saturation by training step, from 1: usual for five steps, then not.
VALUES = {1: 0.20, 2: 0.21, 3: 0.19, 4: 0.20, 5: 0.20, 6: 0.20}
ODD = 0.9


@pytest.fixture(autouse=True)
def odd_samples(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The means of each step in place of those of the pictures; the test may change them."""
    values = dict(VALUES)
    step = {"now": 0}
    judge, means = guarding.Guard.judge, step_statistics.means

    def counted(self: Any, memory: Any, records: Any, metrics: Any, number: int) -> Any:
        step["now"] = number
        return judge(self, memory, records, metrics, number)

    def shown(*args: Any) -> dict[str, float]:
        assert "sentinel/saturation" in means(*args)  # the samples were looked at
        return {"sentinel/saturation": values.get(step["now"], ODD)}

    monkeypatch.setattr(guarding.Guard, "judge", counted)
    monkeypatch.setattr(step_statistics, "means", shown)
    return values


def make(folder: Path, run_dir: Path | None, action: str, **groups: Any) -> S.Config:
    watch = {"action": S.SentinelAction[action], "baseline": 5, "patience": 2} | groups.pop("sentinels", {})
    train = {"steps": 9, "micro_batch": 4, "updates_per_step": 1} | groups.pop("train", {})
    data = {"prompts_per_step": 1, "samples_per_prompt": 4}
    config = setting.config(folder, train=train, data=data, sampler={"steps": 3}, **groups)
    config.sentinels = replace(config.sentinels, **watch)
    config.run_dir = None if run_dir is None else str(run_dir)
    return config


def again(config: S.Config, run_dir: Path, **train: Any) -> S.Config:
    changed = replace(config, run_dir=None, resume=str(run_dir))
    return replace(changed, train=replace(config.train, **train))


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run_dir / "model" / "transformer").glob("*.safetensors")))


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def test_warn_tells_and_changes_nothing(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rlvis"):
        assert loop.train(make(sd3_folder, tmp_path / "warn", "warn"), []).exit_code == 0
    [warning] = [r.getMessage() for r in caplog.records if r.name == "rlvis.training.guard"]
    assert "sentinel, step 8: saturation is 0.9" in warning
    assert "rlvis report" in warning
    assert "advantage.kl_beta=0.04" in warning
    [alarm] = rows(tmp_path / "warn", "alarms.jsonl")
    assert (alarm["step"], alarm["since"], alarm["action"]) == (8, 7, "warn")
    metrics = rows(tmp_path / "warn")
    assert [row["sentinel/alarms"] for row in metrics] == [0.0] * 7 + [1.0, 0.0]
    assert "sentinel/saturation/deviation" not in metrics[4]
    assert metrics[6]["sentinel/saturation/deviation"] > 6
    loop.train(make(sd3_folder, tmp_path / "off", "off"), [])
    assert not [key for row in rows(tmp_path / "off") for key in row if "sentinel" in key]
    assert same(weights(tmp_path / "warn"), weights(tmp_path / "off"))


def test_stop_saves_and_says_how_to_go_on(sd3_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = make(sd3_folder, run, "stop")
    with pytest.raises(guarding.SentinelStopError, match=r"step 8: saturation is 0\.9") as stopped:
        loop.train(config, [])
    assert f"resume={run} sentinels.action=warn" in str(stopped.value)
    ended = json.loads((run / "exit.json").read_text())
    assert (ended["code"], ended["error"]) == (1, "SentinelStopError")
    assert files.choose(run).name == "step_000008"
    config.sentinels.action = S.SentinelAction.warn
    assert loop.train(again(config, run), []).exit_code == 0
    assert [row["step"] for row in rows(run)] == list(range(1, 10))


def test_rollback_goes_back_with_half_the_rate_then_stops(
    sd3_folder: Path, tmp_path: Path, odd_samples: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, applied, compared = tmp_path / "run", guarding.Guard.apply, []

    def watched(self: Any, parts: Any, memory: Any) -> Any:
        if memory.sentinels.rollbacks and not compared:
            kept = export.trained_weights(run / "checkpoints" / "step_000006", parts.config)
            compared.append({name: torch.equal(kept[name], v) for name, v in parts.engine.masters()})
        return applied(self, parts, memory)

    monkeypatch.setattr(guarding.Guard, "apply", watched)
    odd_samples |= dict.fromkeys((9, 10), 0.2)
    train = {"steps": 13, "save_every": 2, "keep": 3}
    config = make(sd3_folder, run, "rollback", train=train, optim={"lr": 1e-3})
    with pytest.raises(guarding.SentinelStopError, match=r"step 12: .*sentinels.rollbacks=1.*used up"):
        loop.train(config, [])
    done = [(alarm["step"], alarm["done"]) for alarm in rows(run, "alarms.jsonl")]
    assert done[0] == (8, "the weights are those after step 6 again, with half the learning rate")
    assert done[1][0] == 12
    assert len(compared) == 1
    assert all(compared[0].values())
    rates = {row["step"]: row["update/learning_rate"] for row in rows(run)}
    assert (rates[8], rates[9], rates[12]) == (1e-3, 5e-4, 5e-4)
    assert [row["step"] for row in rows(run)] == list(range(1, 13))  # steps count on


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(7, marks=pytest.mark.slow),  # before the alarm, with unusual weights: it rolls back
        8,  # at the alarm
        pytest.param(9, marks=pytest.mark.slow),
    ],
)
def test_a_rolled_back_run_resumes_exactly(
    sd3_folder: Path, tmp_path: Path, odd_samples: dict[int, float], cut: int
) -> None:
    odd_samples |= dict.fromkeys(range(9, 20), 0.2)
    groups: dict[str, Any] = {"model": {"ema": S.EmaConfig()}, "optim": {"lr": 1e-3}}
    train = {"save_every": 2, "keep": 3}
    loop.train(make(sd3_folder, tmp_path / "run", "rollback", train=train | {"steps": 10}, **groups), [])
    parts = make(sd3_folder, tmp_path / "cut", "rollback", train=train | {"steps": cut}, **groups)
    loop.train(parts, [])
    loop.train(again(parts, tmp_path / "cut", steps=10), [])
    assert same(weights(tmp_path / "run"), weights(tmp_path / "cut"))
    assert rows(tmp_path / "cut")[-1]["update/learning_rate"] == 5e-4


def test_a_rollback_without_a_checkpoint_stops(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "damage", lambda folder, sums=True: ["broken"])
    config = make(sd3_folder, tmp_path / "run", "rollback", train={"save_every": 5, "steps": 8})
    with pytest.raises(guarding.SentinelStopError, match="lack of a whole checkpoint from before step 7"):
        loop.train(config, [])


def test_a_checkpoint_of_before_the_sentinels_is_read(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    assert "sentinels" not in guarding.memory_kinds(tmp_path)
    (tmp_path / "memory" / "sentinels.json").touch()
    assert "sentinels" in guarding.memory_kinds(tmp_path)
