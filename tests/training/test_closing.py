"""What a run says of its exported weights: how far they moved, and an error where they did not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlvis import schema as S
from rlvis.training import loop
from tests import setting

TRAIN = {"steps": 2, "micro_batch": 4, "updates_per_step": 1}


def test_an_average_that_had_no_turn_exports_what_was_learned(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = tmp_path / "run"
    model = {"lora": S.LoraConfig(4, 8), "ema": S.EmaConfig(every=8)}
    config = setting.config(sd3_folder, model=model, train=TRAIN)
    config.run_dir = str(run)
    assert loop.train(config, []).exit_code == 0
    moved = json.loads((run / "exit.json").read_text())["moved"]
    assert moved > 1e-6
    assert json.loads((run / "lora" / "rlvis.json").read_text()) == {"step": 2, "moved": moved}
    words = f"the exported weights lie {moved:.2g} of their norm from where they began"
    assert words in caplog.text
    assert words.capitalize() in (run / "lora" / "README.md").read_text()
    weights = load_file(run / "lora" / "pytorch_lora_weights.safetensors")
    assert any(bool(value.any()) for name, value in weights.items() if "lora_B" in name)


def test_steps_that_rounding_swallows_are_an_error(sd3_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    model, engine = {"dtype": S.Dtype.bfloat16}, {"stage": 1, "device": "cpu"}
    config = setting.config(sd3_folder, model=model, train=TRAIN, engine=engine, optim={"lr": 1e-12})
    config.run_dir = str(run)
    assert loop.train(config, []).exit_code == 1
    ended = json.loads((run / "exit.json").read_text())
    assert (ended["code"], ended["moved"]) == (1, 0)
    assert "optim.lr=1e-12" in ended["message"]
    assert "lie where they began" in (run / "model" / "README.md").read_text()
