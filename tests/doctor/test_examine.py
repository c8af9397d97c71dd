"""The examination as a whole: what it stops, and that a run after it is bit for bit the run without it."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.doctor import examine, hub, machine
from rlvis.doctor.diagnosis import failure
from rlvis.findings import ConfigError, Finding
from rlvis.training import loop
from tests import setting
from tests.doctor import cases

HERE = "tests.doctor.cases."


def make(folder: Path, run_dir: Path, mode: S.Doctor, scorer: str = "moody", **groups: Any) -> S.Config:
    """2 steps of a tiny run that the tiny text encoder can read."""
    terms = {
        "own": S.RewardTerm(scorer=HERE + scorer),
        "noisy": S.RewardTerm(
            scorer="noisy", kwargs={"scorer": HERE + "brightness", "std": 0.01}, weight=0.1
        ),
    }
    config = setting.config(folder, **{"reward": {"terms": terms}, "data": {"kinds": ["single"]}, **groups})
    config.run_dir, config.doctor = str(run_dir), mode
    return config


def result(run_dir: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and metrics of a run, without those that tell time."""
    file = next(run_dir.glob("*/transformer/*.safetensors"), None) or next(run_dir.glob("lora/*.safetensors"))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "throughput/", "checkpoint/")
    kept = [
        {k: v for k, v in line.items() if not k.startswith(timed) and not k.endswith("latency")}
        for line in lines
    ]
    return load_file(file), kept


@pytest.mark.parametrize(
    "groups",
    [
        {"advantage": {"kl_beta": 0.01}},
        pytest.param(
            {"engine": {"stage": 2, "device": "cpu"}, "model": {"lora": S.LoraConfig(rank=2, alpha=2)}},
            marks=pytest.mark.slow,
        ),
        {"engine": {"stage": 3, "device": "cpu"}},
    ],
)
def test_a_run_after_the_doctor_is_the_run_without(
    sd3_folder: Path, tmp_path: Path, groups: dict[str, Any]
) -> None:
    """Scorers that draw from the global generator, and one that counts how often it saw a picture, too."""
    for mode in (S.Doctor.warn, S.Doctor.off):
        torch.manual_seed(1)
        assert loop.train(make(sd3_folder, tmp_path / mode.value, mode, **groups), [], examine).exit_code == 0
    with_doctor, without = result(tmp_path / "warn"), result(tmp_path / "off")
    assert all(torch.equal(with_doctor[0][k], without[0][k]) for k in without[0])
    assert with_doctor[1] == without[1]
    assert (tmp_path / "warn" / "doctor.json").is_file()
    assert not (tmp_path / "off" / "doctor.json").exists()


def test_random_generators_are_put_back(sd3_folder: Path) -> None:
    def wild(images: torch.Tensor, prompts: list[str], metadata: list[Any]) -> torch.Tensor:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002 - what a scorer may do
        torch.manual_seed(5)
        return cases.brightness(images, prompts, metadata)

    parts = cases.make(sd3_folder, [cases.term(wild)])
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    examine.examine(parts, cases.memory(parts.config), 0, None)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected  # noqa: NPY002


def test_a_failure_stops_before_training_and_off_goes_on(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reward = {"terms": {"own": S.RewardTerm(scorer=HERE + "flat")}}
    data = {"kinds": ["single"], "samples_per_prompt": 8}
    changes: dict[str, Any] = {"reward": reward, "data": data}
    with pytest.raises(ConfigError) as stopped:
        loop.train(make(sd3_folder, tmp_path / "warn", S.Doctor.warn, **changes), [], examine)
    lines = str(stopped.value).splitlines()
    assert "doctor=off goes on all the same" in lines[0]
    assert "reward own: 16 scores from 0.5 to 0.5" in lines[1]
    assert "; type " in lines[1]
    assert not (tmp_path / "warn" / "metrics.jsonl").exists()
    content = json.loads((tmp_path / "warn" / "doctor.json").read_text())
    assert [f["name"] for f in content["findings"] if f["severity"] == "failure"] == ["reward own"]
    assert loop.train(make(sd3_folder, tmp_path / "off", S.Doctor.off, **changes), [], examine).exit_code == 0
    assert "doctor" not in caplog.text


def test_a_warning_is_told_and_strict_stops_at_it(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wasteful = {"steps": 1, "micro_batch": 10, "updates_per_step": 1}
    caplog.set_level(logging.INFO)
    loop.train(make(sd3_folder, tmp_path / "warn", S.Doctor.warn, train=wasteful), [], examine)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING and "doctor" in r.getMessage()]
    assert "doctor: geometry: 12 rows" in record.getMessage()
    assert any("1 warning" in r.getMessage() for r in caplog.records if r.levelno == logging.INFO)
    with pytest.raises(ConfigError, match="doctor=strict stops at warnings too"):
        loop.train(make(sd3_folder, tmp_path / "strict", S.Doctor.strict, train=wasteful), [], examine)


def test_what_the_hub_cannot_give_stops_before_anything_loads(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = failure("hub", "model.path=a/b: no", why="why", type="kind")
    monkeypatch.setattr(hub, "hub", lambda config: [gone])
    monkeypatch.setattr(loop, "assemble", lambda config, world: pytest.fail("assembled"))
    with pytest.raises(ConfigError, match=r"model\.path=a/b"):
        loop.train(make(sd3_folder, tmp_path / "run", S.Doctor.warn), [], examine)


def test_a_check_that_breaks_is_a_warning_and_no_end(
    sd3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Finding]:
        raise OSError("no such thing")

    monkeypatch.setattr(machine, "versions", broken)
    parts = cases.make(sd3_folder)
    diagnosis = examine.examine(parts, cases.memory(parts.config), 0, None)
    finding = cases.one(list(diagnosis.findings), "versions")
    assert (finding.severity, "OSError: no such thing" in finding.what) == ("warning", True)


def test_a_policy_that_diverges_is_a_finding(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder)
    parts.policy.module.register_forward_hook(lambda m, a, out: (out[0] * torch.nan, *out[1:]))
    diagnosis = examine.examine(parts, cases.memory(parts.config), 0, None)
    assert [f.name for f in diagnosis.stopping] == ["samples"]
    assert "not finite" in diagnosis.stopping[0].what


@pytest.mark.parametrize(
    "groups",
    [
        {"prior": {"kind": "reference"}, "trust": {"kind": "ras"}},
        {
            "prior": {"kind": "moving_average"},
            "trust": {"kind": "posterior"},
            "advantage": {"guard": S.GuardConfig(), "clip_range": 2e-6},
        },
        {"advantage": {"preset": S.AdvantagePreset.ddpo, "best_of_n": 2}},
    ],
)
def test_methods_are_found_well(sd3_folder: Path, groups: dict[str, Any]) -> None:
    parts = cases.make(sd3_folder, data={"kinds": ["single"]}, **groups)
    diagnosis = examine.examine(parts, cases.memory(parts.config), 0, None)
    bad = [str(f) for f in diagnosis.findings if f.severity != "ok" and f.name != "geometry"]
    assert bad == []
