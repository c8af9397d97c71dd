"""Held-out evaluation inside a run and alone: the same weights give the same numbers, whichever way they
come.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rlvis import schema as S
from rlvis.checkpoints import eval_weights
from rlvis.findings import ConfigError
from rlvis.training import evaluate, loop
from tests import setting
from tests.whole import checkpoint


def config(folder: Path, run_dir: Path | None, **groups: Any) -> S.Config:
    groups["train"] = {"steps": 2, "updates_per_step": 1, "micro_batch": 4} | groups.get("train", {})
    settings = setting.config(folder, **groups)
    settings.run_dir = None if run_dir is None else str(run_dir)
    settings.eval = S.EvalConfig(suite="shapes", every=1, prompts=4, samples=2, steps=2)
    settings.eval.terms["jpeg"] = S.RewardTerm("jpeg_compressibility")
    return settings


def alone(settings: S.Config, run: Path, out: Path) -> pd.DataFrame:
    again = replace(settings, run_dir=str(out), eval=replace(settings.eval, run=str(run)))
    return pd.read_parquet(evaluate.evaluate_policy(again).path)


def entry(folder: Path, step: int) -> dict[str, Any]:
    evaluations = json.loads((folder / "summary.json").read_text())["evaluations"]
    evaluation: dict[str, Any] = next(e for e in evaluations if e["step"] == step)
    return evaluation


def test_a_run_evaluates_before_between_and_after(sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder, tmp_path / "run", train={"steps": 3})
    settings.eval.every = 2
    loop.train(settings, [])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert ["eval/score" in line for line in lines] == [True, False, True, True]
    assert "reward/mean" not in lines[0]
    assert {"eval/accuracy", "eval/accuracy/single", "eval/jpeg", "time/eval"} <= set(lines[2])
    tables = sorted((tmp_path / "run" / "eval").glob("*.parquet"))
    assert [path.stem for path in tables] == ["step_000000", "step_000002", "step_000003"]
    last = pd.read_parquet(tables[-1])
    assert last["score"].mean() == pytest.approx(lines[3]["eval/score"], abs=1e-12)
    assert last["step"].unique().tolist() == [3]
    summary = entry(tmp_path / "run" / "eval", 3)
    assert summary["settings"]["steps"] == 2
    assert summary["settings"]["data"] == "shapes/heldout"
    assert summary["weights"] != entry(tmp_path / "run" / "eval", 0)["weights"]


@pytest.mark.parametrize(
    "groups",
    [
        {"model": {"ema": S.EmaConfig(decay=0.5, every=8)}},
        {"model": {"lora": S.LoraConfig(rank=2, alpha=8), "cfg": 2.0}},
        {
            "model": {"lora": S.LoraConfig(rank=2, alpha=8), "dtype": S.Dtype.bfloat16},
            "engine": {"stage": 2, "device": "cpu"},
        },
    ],
    ids=["average", "lora", "bfloat16"],
)
def test_exported_weights_alone_give_the_numbers_of_the_loop(
    sd3_folder: Path, tmp_path: Path, groups: dict[str, Any]
) -> None:
    settings = config(sd3_folder, tmp_path / "run", **groups)
    loop.train(settings, [])
    before = pd.read_parquet(tmp_path / "run" / "eval" / "step_000002.parquet")
    start = pd.read_parquet(tmp_path / "run" / "eval" / "step_000000.parquet")
    assert not before["term/jpeg"].equals(start["term/jpeg"])  # training has moved the pictures
    pd.testing.assert_frame_equal(alone(settings, tmp_path / "run", tmp_path / "alone"), before)
    for key in ("settings", "weights", "mean"):
        assert entry(tmp_path / "alone", 2)[key] == entry(tmp_path / "run" / "eval", 2)[key]


def test_a_checkpoint_gives_the_numbers_of_its_step(sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(
        sd3_folder,
        tmp_path / "run",
        model={"ema": S.EmaConfig(decay=0.5, every=3)},
        train={"save_every": 1, "keep": 9},
    )
    loop.train(settings, [])
    table = alone(settings, tmp_path / "run" / "checkpoints" / "step_000001", tmp_path / "alone")
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "run" / "eval" / "step_000001.parquet"))


def test_evaluation_leaves_training_alone(sd3_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = []
    for name, every in (("with", 1), ("without", 0)):
        settings = config(sd3_folder, tmp_path / name, model={"ema": S.EmaConfig()})
        settings.eval.every = every
        loop.train(settings, [])
        (file,) = (tmp_path / name / "model" / "transformer").glob("*.safetensors")
        weights.append(load_file(file))
    assert not (tmp_path / "without" / "eval").exists()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


def test_the_policy_as_it_comes_and_other_settings_in_its_place(sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder, tmp_path / "base")
    done = evaluate.evaluate_policy(settings)
    assert done.path == tmp_path / "base" / "step_000000.parquet"
    assert done.listing.splitlines()[1].startswith("all ")
    evaluate.evaluate_policy(settings)  # the same again is no clash
    with pytest.raises(ValueError, match=r"samples was 2 and is now 1.*run_dir=DIR"):
        evaluate.evaluate_policy(replace(settings, eval=replace(settings.eval, samples=1)))


def test_what_eval_run_names(tmp_path: Path) -> None:
    settings = config(tmp_path, None)

    def named(run: Path) -> eval_weights.Weights:
        return eval_weights.find_weights(replace(settings, eval=replace(settings.eval, run=str(run))))

    run = tmp_path / "run"
    assert eval_weights.find_weights(settings).kind == "base"
    with pytest.raises(ConfigError, match="there is no such folder"):
        named(run)
    (run / "checkpoints" / "step_000004").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no run folder"):
        named(run)
    (run / "config.yaml").touch()
    with pytest.raises(ConfigError, match="neither exported weights"):
        named(run)
    (run / "checkpoints" / "step_000004").rmdir()
    checkpoint(run, 4)
    assert (named(run).kind, named(run).step) == ("checkpoint", 4)
    (run / "lora").mkdir()
    eval_weights.note_export(run / "lora", 9, 0.1)
    assert (named(run).kind, named(run).step, named(run).run) == ("export", 9, run)
    assert named(run / "checkpoints" / "step_000004").run == run
