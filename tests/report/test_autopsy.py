"""Autopsies of runs made sick on purpose: step, place and cause are named; a healthy run gets none."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rlvis import schema as S
from rlvis.report import autopsy, folder
from rlvis.report.autopsy import Autopsy, changes
from rlvis.report.judge import judge
from rlvis.training import loop, pipeline, run_step, sampling
from tests import setting
from tests.observe.curves import CONFIG, healthy

PROMPTS = [(17, "a red ring"), (4, "two squares"), (8, "a star")]


def details(steps: int = 40) -> list[dict[str, Any]]:
    """Lines of a healthy run: three prompts, two transitions, two layers."""
    rng = np.random.default_rng(0)

    def near(value: float) -> float:
        return float(value * math.exp(0.05 * rng.normal()))

    return [
        {
            "step": step,
            "prompts": [
                {
                    "prompt": p,
                    "text": text,
                    "kind": "single",
                    "valid": 8,
                    "mean": near(0.7),
                    "std": 0.1,
                    "terms": {"checker": near(0.7)},
                }
                for p, text in PROMPTS
            ],
            "transitions": [
                {
                    "at": at,
                    "sigma": 1 - at / 4,
                    "ratio_max_deviation": near(1e-3),
                    "clip_fraction": 0.2,
                    "loss": 1e-6,
                    "kl": None,
                }
                for at in range(2)
            ],
            "layers": {"transformer_blocks.0": near(0.01), "proj_out": near(0.02)},
        }
        for step in range(1, steps + 1)
    ]


def run(folder: Path, rows: Any, lines: Any = (), *, code: int | None = 0, **ended: Any) -> Path:
    """A run folder by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"train": {"steps": rows[-1]["step"]}}))
    command = "rlvis train seed=3 optim.lr=1e-3 run_dir=/tmp/x 'name=a b'"
    (folder / "manifest.json").write_text(json.dumps({"command": command, "hardware": {"gpu_gib": 24.0}}))
    for name, what in (("metrics.jsonl", rows), ("details.jsonl", lines)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in what))
    if code is not None:
        (folder / "exit.json").write_text(json.dumps({"code": code, **ended}))
    return folder


def examined(folder: Path) -> Autopsy:
    result = autopsy.examine(folder)
    assert result is not None
    json.dumps(autopsy.to_json(result), allow_nan=False)
    assert all(
        len(line) <= autopsy.WIDTH or line.startswith("    rlvis")
        for line in autopsy.to_text(result).split("\n")[1:]
    )
    return result


def causes(result: Autopsy) -> list[str]:
    return [cause.what for cause in result.causes]


def test_a_healthy_run_is_left_in_peace(tmp_path: Path) -> None:
    result = examined(run(tmp_path, healthy(40), details()))
    assert result.healthy
    assert (result.state, result.first_bad, result.moved, result.commands) == ("finished", None, [], [])
    assert autopsy.to_text(result).splitlines()[-1] == "Nothing suspicious."


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        b"",
        bytes(range(256)) * 9,
        b'{"step": 1, "reward/mean": "abc"}\n',
        b'{"step": 1, "something": 0.5}\n{"step": 2, "something": 0.5}\n',
        b'{"step": 1e30, "reward/mean": 1}\n{"step": -5, "reward/mean": 1}\n',
    ],
)
def test_metrics_that_say_nothing_are_not_called_healthy(tmp_path: Path, metrics: bytes | None) -> None:
    path = run(tmp_path, healthy(40)) / "metrics.jsonl"
    path.unlink()
    if metrics is not None:
        path.write_bytes(metrics)
    result = examined(tmp_path)
    assert not result.healthy
    text = autopsy.to_text(result)
    assert "metrics.jsonl" in text
    assert text.endswith("Whether it is healthy cannot be said: its metrics say nothing.")
    assert judge(folder.read(tmp_path)).verdict == "unknown"


def test_what_is_beyond_any_measure_counts_as_not_finite(tmp_path: Path) -> None:
    rows = healthy(40)
    for row in rows[20:]:
        row |= {"update/loss": 1e300, "update/grad_norm": 10**400, "group/std_mean": -1e300}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = examined(run(tmp_path, rows))
    assert {"loss-not-finite", "gradient-not-finite"} <= {s.name for s in result.symptoms}
    assert result.first_bad == 20


def test_lines_of_another_kind_do_not_cost_the_rest(tmp_path: Path) -> None:
    odd = [{"step": 3, "prompts": "abc"}, {"step": 4, "layers": [1]}, {"step": 5, "transitions": [{"kl": 1}]}]
    assert examined(run(tmp_path, healthy(40), odd)).healthy


def test_steps_that_are_gone_are_named(tmp_path: Path) -> None:
    run(tmp_path, [row for row in healthy(40) if row["step"] not in (1, 2, 3, 20)])
    assert "metrics.jsonl has no line of steps 1 to 3, 20:" in autopsy.to_text(examined(tmp_path))
    assert any("no line of steps 1 to 3, 20:" in what for what in folder.read(tmp_path).missing)


def test_nothing_of_a_run(tmp_path: Path) -> None:
    assert autopsy.examine(tmp_path) is None
    with pytest.raises(ValueError, match="not a folder"):
        autopsy.examine(tmp_path / "nowhere")


def test_cut_off_files_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    run(tmp_path, healthy(40), details())
    for name in ("metrics.jsonl", "details.jsonl", "manifest.json", "exit.json"):
        path = tmp_path / name
        path.write_text(path.read_text()[:-9])
    assert examined(tmp_path).steps == 39


def test_states(tmp_path: Path) -> None:
    from rlvis.checkpoints.open_run import open_run

    assert examined(run(tmp_path / "a", healthy(9), code=130)).state == "interrupted"
    assert examined(run(tmp_path / "b", healthy(9), code=1, error="KeyError", message="x")).state == "crashed"
    killed = examined(run(tmp_path / "c", healthy(9), code=None))
    assert (killed.state, causes(killed)) == ("killed", ["killed from outside"])
    (tmp_path / "c" / "job.log").write_text("step 9\nKilled\n")
    assert examined(tmp_path / "c").causes[0].numbers["strength"] == 3
    finished = run(tmp_path / "d", healthy(9), code=None)  # written before there was an exit.json
    (finished / "model").mkdir()
    assert examined(finished).state == "finished"
    config = setting.config(tmp_path)
    config.run_dir = str(tmp_path / "e")
    with open_run(config, True, lambda agreed: agreed):
        run(tmp_path / "e", healthy(9), code=None)
        assert examined(tmp_path / "e").state == "running"


def test_memory_and_disk(tmp_path: Path) -> None:
    error = {"error": "OutOfMemoryError", "message": "CUDA out of memory. Tried to allocate 2 GiB"}
    full = [row | {"memory/max_gib": 23.5} for row in healthy(9)]
    result = examined(run(tmp_path / "memory", full, code=1, **error))
    assert causes(result) == ["out of memory"]
    assert "23.5 of 24.0 GiB" in result.causes[0].evidence[1]
    error = {"error": "OSError", "message": "[Errno 28] No space left on device: 'x'"}
    assert causes(examined(run(tmp_path / "disk", healthy(9), code=1, **error))) == ["no space on the disk"]


def test_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvis.checkpoints import files

    folder = run(tmp_path, healthy(9), code=None)
    ((_, anew),) = examined(folder).commands
    assert anew == "rlvis train seed=3 optim.lr=1e-3 'name=a b'"
    monkeypatch.setattr(files, "whole", lambda run_dir: [run_dir / "checkpoints" / "step_000006"])
    assert examined(folder).commands == [("go on after step 6", f"rlvis train resume={tmp_path}")]


def test_a_prompt_whose_scores_fail(tmp_path: Path) -> None:
    lines, rows = details(), healthy(40)
    for line, row in zip(lines, rows[1:], strict=True):
        if line["step"] % 5 == 0:
            line["prompts"][1] |= {"valid": 0, "mean": None, "std": None, "terms": {"checker": None}}
            row |= {"reward/invalid_count": 8.0, "reward/valid_fraction": 2 / 3}
        else:
            del line["prompts"][1]
    result = examined(run(tmp_path, rows, lines))
    assert (result.first_bad, causes(result)) == (5, ["a scorer that fails"])
    evidence = " ".join(result.causes[0].evidence)
    assert (
        "prompt 4 ('two squares') loses samples at all of its 8 visits: 64 of 64, first at step 5" in evidence
    )
    assert "no other prompt is hit" in evidence


def test_a_scorer_that_is_stuck(tmp_path: Path) -> None:
    rows = healthy(40)
    for row in rows[30:]:
        row |= {"reward/checker/std": 0.0, "group/std_mean": 0.0, "group/zero_variance_fraction": 1.0}
    result = examined(run(tmp_path, rows, details()))
    assert (result.first_bad, causes(result)[0]) == (30, "a scorer that is stuck")


def test_a_collapse_says_what_moved_first(tmp_path: Path) -> None:
    rows, lines = healthy(60), details(60)
    for row in rows[50:]:
        row |= {"reward/mean": 0.1, "ratio/max_deviation": 2.0}
    for line in lines[47:]:
        line["transitions"][1]["ratio_max_deviation"] = 0.5
    for line in lines[48:]:
        line["layers"]["proj_out"] = 4.0
    for line in lines[49:]:
        line["prompts"][2]["mean"] = 0.0
    result = examined(run(tmp_path, rows, lines))
    assert result.first_bad == 50
    assert [(m.family, m.step) for m in result.moved[:2]] == [("transition", 48), ("layer", 49)]
    (prompt,) = (m for m in result.moved if m.family == "prompt")
    assert (prompt.name, prompt.step) == ("8 ('a star')", 50)
    assert result.moved[0].name == "1 (sigma 0.75) ratio_max_deviation"
    assert result.moved[1].name == "proj_out"
    assert causes(result)[0] == "a learning rate too high"
    assert "optim.lr=2e-05" in result.causes[0].type  # a tenth of it
    assert "step 48  transition  1 (sigma 0.75)" in autopsy.to_text(result)


def test_a_slow_trend_and_a_single_outlier_do_not_move() -> None:
    lines = details(60)
    for line in lines:
        line["layers"]["proj_out"] *= 1.02 ** line["step"]
    lines[30]["layers"]["transformer_blocks.0"] = 1.0
    assert [m for m in changes.find_changes(lines, 60) if m.family == "layer"] == []


def small(sd3_folder: Path, run_dir: Path, **groups: Any) -> S.Config:
    groups.setdefault("train", {"steps": 3, "micro_batch": 6, "updates_per_step": 1})
    groups |= {"model": {"max_tokens": 24}, "data": {"kinds": ["single"]}}  # no prompt is cut off
    config = setting.config(sd3_folder, **groups)
    config.run_dir, config.doctor = str(run_dir), S.Doctor.off
    return config


def broken(config: S.Config, monkeypatch: pytest.MonkeyPatch, spoil: Any, match: str) -> Autopsy:
    """Train until `spoil(parts)`, called before the second step, breaks it."""
    train_step = pipeline.train_step

    def spoiled(parts: Any, memory: Any, step: int, *rest: Any) -> Any:
        if step == 1:
            spoil(parts)
        return train_step(parts, memory, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run_step, "train_step", spoiled)
        with pytest.raises(RuntimeError, match=match):
            loop.train(config, ["rlvis", "train", "seed=0"])
    assert config.run_dir is not None
    return examined(Path(config.run_dir))


def times_nan(when: Any) -> Any:
    def hook(module: Any, args: Any, out: Any) -> Any:
        return out * float("nan") if when() else out

    return hook


def test_nan_at_a_layer_of_the_update(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(parts: Any) -> None:
        parts.policy.module.transformer_blocks[1].ff.register_forward_hook(times_nan(torch.is_grad_enabled))

    config = small(sd3_folder, tmp_path / "run")
    result = broken(config, monkeypatch, spoil, "training step 1.*is not finite")
    assert (result.state, result.steps, result.first_bad) == ("crashed", 1, 2)
    assert causes(result)[0] == "numbers that are not finite"
    assert "nan first at transition 0 (sigma 1.000)" in result.causes[0].evidence[0]
    module = "the first module whose output is not finite is transformer_blocks.1.ff"
    assert module in result.causes[0].evidence


def test_nan_at_a_layer_of_the_rollout(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(parts: Any) -> None:
        parts.policy.module.transformer_blocks[0].attn.register_forward_hook(
            lambda module, args, out: tuple(part * float("nan") for part in out)
        )

    config = small(sd3_folder, tmp_path / "run")
    result = broken(
        config, monkeypatch, spoil, r"12 of 12 samples are not finite: first sample 0 of prompt \d+"
    )
    evidence = " ".join(result.causes[0].evidence)
    assert "after sampling step 0 of 5" in evidence
    assert "the first module whose output is not finite is transformer_blocks.0.attn" in evidence
    dumped = json.loads((tmp_path / "run" / "dump" / "step_000001" / "broken.json").read_text())
    assert (dumped["step"], dumped["stage"], len(dumped["rows"])) == (2, "rollout", 12)
    assert not any("stage=update" in command for _, command in result.commands)


def test_nan_in_a_gradient_alone(sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(parts: Any) -> None:
        def hook(module: Any, args: Any, out: torch.Tensor) -> None:
            if out.requires_grad:
                out.register_hook(lambda gradient: gradient * float("nan"))

        parts.policy.module.transformer_blocks[1].ff.register_forward_hook(hook)

    config = small(sd3_folder, tmp_path / "run")
    result = broken(config, monkeypatch, spoil, "the gradient's norm is nan")
    evidence = " ".join(result.causes[0].evidence)
    assert "the forward is finite; the gradient is not in" in evidence
    layers = json.loads((tmp_path / "run" / "dump" / "step_000001" / "broken.json").read_text())["layers"]
    assert layers[-1] == "transformer_blocks.1"  # nothing after it in the forward's order
    assert "norm_out" not in layers


def test_a_loss_that_becomes_infinite_is_named_and_replayed(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll = sampling.rollout_shard

    def spoiled(*args: Any) -> Any:
        trajectories = roll(*args)
        logprob = trajectories.logprob.clone()
        logprob[6, 2] = -math.inf
        return trajectories.replace(logprob=logprob)

    def spoil(parts: Any) -> None:
        monkeypatch.setattr(sampling, "rollout_shard", spoiled)

    config = small(sd3_folder, tmp_path / "run")
    place = r"inf first at transition 2 \(sigma [\d.]+\) of prompt \d+, sample 2"
    result = broken(config, monkeypatch, spoil, place)
    monkeypatch.setattr(sampling, "rollout_shard", roll)
    evidence = " ".join(result.causes[0].evidence)
    assert "only transition 2 (sigma" in evidence
    assert "all of the 1 named losses or samples belong to prompt" in evidence
    assert "the policy's forward is finite" in evidence
    command = f"rlvis train seed=0 stage=update records={tmp_path / 'run' / 'dump'}"
    assert ("repeat the broken update on its own records", command) in result.commands
    again = replace(
        config, stage=S.Stage.update, records=str(tmp_path / "run" / "dump"), run_dir=str(tmp_path / "again")
    )
    with pytest.raises(RuntimeError, match=place):
        loop.train(again, [])
