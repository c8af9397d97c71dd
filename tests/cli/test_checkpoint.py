"""`rlvis checkpoint`: what it shows, finds, removes and exports."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.checkpoints import files
from rlvis.cli import checkpoint
from rlvis.runs import lock
from rlvis.training import loop
from tests import setting
from tests.cli.helpers import refusal
from tests.whole import checkpoint as fake

LORA = S.LoraConfig(rank=2, alpha=6)


def trained(folder: Path, run: Path, stage: int, **model: Any) -> Path:
    """A run of one step."""
    train = {"steps": 1, "micro_batch": 4, "updates_per_step": 1}
    config = setting.config(folder, model=model, train=train, engine={"stage": stage, "device": "cpu"})
    config.run_dir = str(run)
    assert loop.train(config, []).exit_code == 0
    return run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor below a folder, by file and name."""
    paths = sorted(folder.rglob("*.safetensors"))
    assert paths
    return {f"{path.relative_to(folder)}:{k}": v for path in paths for k, v in load_file(path).items()}


@pytest.mark.parametrize(
    ("stage", "model"),
    [
        (0, {"ema": S.EmaConfig(decay=0.5, every=8)}),
        (0, {"lora": LORA}),
        (2, {"lora": LORA, "dtype": S.Dtype.bfloat16}),
        (3, {}),
    ],
    ids=["average before its turn", "stage 0", "bfloat16 at stage 2", "stage 3"],
)
def test_a_checkpoint_exports_what_its_run_exported(
    sd3_folder: Path, tmp_path: Path, stage: int, model: dict[str, Any], capsys: Any, caplog: Any
) -> None:
    caplog.set_level("INFO")
    run = trained(sd3_folder, tmp_path / "run", stage, **model)
    capsys.readouterr()
    assert checkpoint.run(["export", str(run), f"to={tmp_path / 'out'}"]) == 0
    told = capsys.readouterr().out
    assert "trained tensors of step_000001, which lie " in told
    assert "of their norm from where they began" in told
    if "lora" not in model:  # ZeRO-3 too counts whole weights, not the shards that it leaves
        (count, total) = re.findall(r"(\S+) M trained of (\S+) M", caplog.text)[0]
        assert count == total != "0.00"
    of_run, exported = tensors(run / ("lora" if "lora" in model else "model")), tensors(tmp_path / "out")
    assert of_run.keys() == exported.keys()
    assert all(torch.equal(of_run[name], exported[name]) for name in of_run)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with three checkpoints that hold next to nothing."""
    for step in (2, 4, 6):
        fake(tmp_path / "run", step, **{"ema.safetensors": b"x" * 99, "config.yaml": b"seed: 3\n"})
    (tmp_path / "run" / "config.yaml").write_text("seed: 3\n")
    return tmp_path / "run"


def spoil(run: Path, step: int) -> None:
    (run / "checkpoints" / files.name(step) / "ema.safetensors").write_bytes(b"y" * 99)


def test_inspect_shows_what_one_and_all_hold(run: Path, capsys: Any) -> None:
    assert checkpoint.run(["inspect", str(run)]) == 0
    text = capsys.readouterr().out
    assert text.count(": whole") == 3
    for word in ("step 6", "1 process", "ZeRO stage 0", "without averaged", "ema.safetensors", "SHA-256"):
        assert word in text
    spoil(run, 4)
    assert checkpoint.run(["inspect", str(run / "checkpoints" / "step_000004")]) == 0
    text = capsys.readouterr().out
    assert "step_000004: DAMAGED" in text
    assert "damaged: ema.safetensors: SHA-256" in text


def test_verify_reads_every_byte_and_fails_for_damage(run: Path, capsys: Any) -> None:
    assert checkpoint.run(["verify", str(run)]) == 0
    assert capsys.readouterr().out.count("whole") == 3
    spoil(run, 2)
    (run / "checkpoints" / "step_000004" / "SUMS.json").write_text("{")
    assert checkpoint.run(["verify", str(run)]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows[1:4]] == ["DAMAGED", "DAMAGED", "whole"]
    assert rows[4].startswith("step_000002: ema.safetensors: SHA-256")
    assert rows[5].startswith("step_000004: SUMS.json: cannot be read")


def test_prune_keeps_what_can_be_resumed_and_leaves_a_run_in_use_alone(run: Path, capsys: Any) -> None:
    spoil(run, 6)
    with lock.hold(run):
        assert checkpoint.run(["prune", str(run), "keep=1"]) == 2
    assert "in use" in capsys.readouterr().err
    assert checkpoint.run(["prune", str(run), "keep=1"]) == 0
    text = capsys.readouterr().out
    assert "removing" in text
    assert "removed 1; there are left: step_000004, step_000006" in text
    assert sorted(os.listdir(run / "checkpoints")) == ["latest", "step_000004", "step_000006"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weigh", "RUN"], "unknown verb of rlvis checkpoint weigh; "),
        (["inspect"], "takes one run folder"),
        (["inspect", "nowhere"], "there is no such folder"),
        (["verify", "."], "holds no checkpoints/step_NNNNNN"),
        (["verify", "RUN", "keep=1"], "takes no options, got keep=1"),
        (["prune", "RUN"], "type keep=1"),
        (["prune", "RUN", "keep=0"], "type keep=1"),
        (["prune", "RUN/checkpoints/step_000002", "keep=1"], "is a checkpoint; type"),
        (["export", "RUN"], "to=DIR"),
        (["export", "RUN", "to=RUN"], "exists already and is not empty"),
    ],
)
def test_a_mistake_says_what_to_type(
    run: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(run / "checkpoints")
    assert message in refusal(capsys, "checkpoint", *(word.replace("RUN", str(run)) for word in words))


def test_the_help_names_every_verb(capsys: Any) -> None:
    assert checkpoint.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"rlvis checkpoint {verb} " in text for verb in checkpoint.VERBS)
