"""A scorer that changes during a run stops it, also when the run is resumed; one that does not, does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlvis import schema as S
from rlvis.training import loop, run_step
from tests import setting

JUDGE = """
FILE = {file!r}

def judge(images, prompts, metadata):
    shift = float(open(FILE).read())
    return images.double().mean((1, 2, 3, 4)) + shift
"""


def test_a_drift_stops_the_run_and_its_continuation(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "shift"
    (tmp_path / "judge_that_drifts.py").write_text(JUDGE.format(file=str(file)))
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text("0")
    reward = {
        "terms": {"judge": S.RewardTerm("judge_that_drifts.judge")},
        "canary": S.CanaryConfig(every=2, samples=3),
    }
    config = setting.config(sd3_folder, reward=reward, train={"steps": 2, "shard": 2, "updates_per_step": 1})
    config.run_dir = str(tmp_path / "run")
    assert loop.train(config, []).exit_code == 0
    content = json.loads((tmp_path / "run" / "canary.json").read_text())
    assert (len(content["prompts"]), content["terms"]) == (3, ["judge"])  # of two shards

    again = replace(config, run_dir=None, resume=config.run_dir, train=replace(config.train, steps=4))
    file.write_text("5")
    with pytest.raises(RuntimeError, match=r"after training step 2 the reward judge has drifted.* at first"):
        loop.train(again, [])
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == "step_000002"

    def drifts(*args: object) -> object:
        file.write_text("7")
        return step(*args)

    file.write_text("0")
    step = run_step.train_step
    monkeypatch.setattr(run_step, "train_step", drifts)
    with pytest.raises(RuntimeError, match=r"after training step 4 the reward judge has drifted"):
        loop.train(again, [])
