"""Whole runs of a tiny policy through `loop.train`: files, resume, interruption, failure, single stages."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.checkpoints import files
from rlvis.training import loop, pipeline, run_step, sampling
from tests import setting


def make(folder: Path, run_dir: Path | None, **groups: Any) -> S.Config:
    groups.setdefault("train", {})
    groups["train"] = {"steps": 2, "micro_batch": 4, "updates_per_step": 1} | groups["train"]
    config = setting.config(folder, **groups)
    config.run_dir = None if run_dir is None else str(run_dir)
    return config


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(next((run_dir / "model" / "transformer").glob("*.safetensors")))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_it_promises(sd3_folder: Path, tmp_path: Path) -> None:
    config = make(
        sd3_folder, tmp_path / "run", tracker={"samples_every": 1, "samples": 2}, model={"ema": S.EmaConfig()}
    )
    done = loop.train(config, ["train.py", "reward.terms.x.kwargs.token=abc"])
    assert done == loop.Outcome(0, tmp_path / "run")
    lines = [json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["ratio/max_deviation_first"] == 0.0
    assert sorted(p.name for p in (done.run_dir / "samples").glob("*.png")) == [
        f"step_{n:06d}.png" for n in range(3)
    ]
    assert (done.run_dir / "checkpoints" / "latest").read_text().strip() == "step_000002"
    assert (done.run_dir / "config.yaml").exists()
    manifest = (done.run_dir / "manifest.json").read_text()
    assert "abc" not in manifest
    assert json.loads(manifest)["hardware"]["processes"] == 1


def test_the_export_is_the_average(sd3_folder: Path, tmp_path: Path) -> None:
    loop.train(make(sd3_folder, tmp_path / "plain"), [])
    averaged = make(sd3_folder, tmp_path / "ema", model={"ema": S.EmaConfig(decay=0.9)})
    loop.train(averaged, [])
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "ema"))


@pytest.mark.parametrize("stage", [0, 2])
def test_resume_is_bit_exact(sd3_folder: Path, tmp_path: Path, stage: int) -> None:
    groups: dict[str, Any] = {
        "engine": {"stage": stage, "device": "cpu"},
        "model": {"ema": S.EmaConfig()},
        "advantage": {"preset": S.AdvantagePreset.ddpo},  # whose reward history must survive as well
    }
    loop.train(make(sd3_folder, tmp_path / "whole", train={"steps": 3}, **groups), [])
    loop.train(make(sd3_folder, tmp_path / "parts", train={"steps": 1}, **groups), [])
    again = make(sd3_folder, None, train={"steps": 3}, **groups)
    again.resume = str(tmp_path / "parts")
    loop.train(again, [])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_a_folder_in_use_or_taken_is_refused(sd3_folder: Path, tmp_path: Path) -> None:
    from rlvis.checkpoints.open_run import open_run

    config = make(sd3_folder, tmp_path / "run")
    with (
        open_run(config, True, lambda x: x),
        pytest.raises(ValueError, match="is in use by process"),
    ):
        loop.train(config, [])
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="already holds a run"):
        loop.train(config, [])
    resumed = replace(config, run_dir=None, resume=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="no whole checkpoint"):
        loop.train(resumed, [])


def test_an_unwritable_folder_is_one_clear_message(sd3_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="run_dir=DIR"):
        loop.train(make(sd3_folder, tmp_path / "file" / "run"), [])


def test_a_signal_finishes_the_step_and_saves(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(sd3_folder, tmp_path / "run", train={"steps": 5})
    train_step = pipeline.train_step

    def interrupted(parts: Any, memory: Any, step: int, *rest: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(parts, memory, step, *rest)

    monkeypatch.setattr(run_step, "train_step", interrupted)
    assert loop.train(config, []).exit_code == 130
    assert files.choose(tmp_path / "run").name == "step_000002"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_broken_step_is_dumped_and_can_be_replayed(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in a log-prob: the run stops before the optimizer, and `stage=update` on the dump stops in the same
    way.
    """
    config = make(sd3_folder, tmp_path / "run")
    roll = sampling.rollout_shard

    def spoiled(*args: Any) -> Any:
        trajectories = roll(*args)
        logprob = trajectories.logprob.clone()
        logprob[3] = float("nan")
        return trajectories.replace(logprob=logprob)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "rollout_shard", spoiled)
        with pytest.raises(RuntimeError, match=r"step 0.*not finite.*stage=update records=.*dump"):
            loop.train(config, [])
    replayed = replace(
        config, stage=S.Stage.update, records=str(tmp_path / "run" / "dump"), run_dir=str(tmp_path / "again")
    )
    with pytest.raises(RuntimeError, match="not finite"):
        loop.train(replayed, [])


def test_the_chain_of_single_stages_is_a_whole_step(sd3_folder: Path, tmp_path: Path) -> None:
    train = {"steps": 1, "updates_per_step": 2}
    loop.train(make(sd3_folder, tmp_path / "whole", train=train), [])
    for stage in (S.Stage.rollout, S.Stage.score, S.Stage.weigh, S.Stage.build, S.Stage.update):
        config = make(sd3_folder, tmp_path / stage.value, train=train)
        config.stage, config.records = stage, str(tmp_path / "records")
        assert loop.train(config, []).exit_code == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "update"))


def test_saved_records_of_a_run_hold_no_media_and_say_so(sd3_folder: Path, tmp_path: Path) -> None:
    loop.train(make(sd3_folder, tmp_path / "run", train={"steps": 1, "save_records": True}), [])
    config = make(sd3_folder, tmp_path / "score")
    config.stage, config.records = S.Stage.score, str(tmp_path / "run" / "records")
    with pytest.raises(ValueError, match="hold no media"):
        loop.train(config, [])


def test_a_scorer_that_fails_masks_and_never_scores_zero(sd3_folder: Path, tmp_path: Path) -> None:
    reward = {"terms": {"odd": S.RewardTerm(scorer="tests.training.test_loop.nan_for_bright")}}
    loop.train(
        make(sd3_folder, tmp_path / "run", reward=reward, train={"steps": 1, "save_records": True}), []
    )
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert 0 < line["reward/valid_fraction"] < 1
    assert line["reward/mean"] > 0.1


def nan_for_bright(images: torch.Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> torch.Tensor:
    """Mean brightness, NaN for the brighter half."""
    score = images.float().mean((1, 2, 3, 4)) / 255
    return torch.where(score > score.median(), float("nan"), score)


def test_lora_export_opens_in_stock_diffusers(sd3_folder: Path, tmp_path: Path) -> None:
    from tests import tiny

    config = make(sd3_folder, tmp_path / "run", model={"lora": S.LoraConfig(rank=2, alpha=6), "cfg": 2.0})
    loop.train(config, [])
    pipe = tiny.stock_sd3(sd3_folder)
    pipe.load_lora_weights(tmp_path / "run" / "lora")
    assert pipe.get_active_adapters()
