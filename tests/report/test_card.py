"""The card of exported weights: complete, the same when written again, silent about what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from rlvis.observe import gallery
from rlvis.report import card

OPENING = "A LoRA (rank 4, alpha 8), trained with rlvis. To open it:\n\n```python\nx\n```\n"


def exported_run(run: Path, **model: Any) -> Path:
    (run / "lora").mkdir(parents=True)
    (run / "lora" / "README.md").write_text(OPENING)
    model_section = {"path": "owner/name", "frames": 1, "lora": {"rank": 4}, **model}
    config = {"model": model_section, "advantage": {"preset": "flow_grpo"}, "trust": {"kind": "ras"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"step": i, "reward/mean": 0.1 * i, "eval/accuracy": 0.5} for i in range(1, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    git = {"commit": "abc", "dirty": True}
    first = {"command": ["rlvis", "train", "seed=1"], "git": git}
    command = {"command": ["rlvis", "train", "resume=a"], "git": git, "earlier": [first]}
    (run / "manifest.json").write_text(json.dumps(command))
    for step in (0, 3):
        gallery.write_samples(run, step, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["a", "b"])
    return run


def test_it_is_complete_and_the_same_when_written_again(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "run")
    path = card.complete(run)
    assert path == run / "lora" / "README.md"
    text = path.read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "owner/name"
    assert front["pipeline_tag"] == "text-to-image"
    assert "license" not in front  # it could not be read, and is not made up
    assert OPENING.strip() in text
    for words in (
        "| `reward/mean` | 0.1 | 0.3 |",
        "rlvis train seed=1",
        "git checkout abc",
        "could not be read",
    ):
        assert words in text
    assert "2505.05470" in text  # Flow-GRPO
    assert "2511.18919" in text  # BPGO
    assert "2511.18719" not in text  # no map, no ViPO
    assert (run / "lora" / "curves.png").stat().st_size > 1000
    assert (run / "lora" / "before_after.png").is_file()
    assert card.complete(run) == path
    assert path.read_text() == text


def test_the_licence_is_that_of_the_base_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: some-terms\n---\n# base\n")
    run = exported_run(tmp_path / "run", path=str(base), frames=9, condition="first_frame")
    path = card.complete(run)
    assert path is not None
    front = yaml.safe_load(path.read_text().split("---\n")[1])
    assert (front["license"], front["pipeline_tag"]) == ("some-terms", "image-to-video")
    assert "base_model" not in front


def test_without_an_export_there_is_no_card(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "run")
    (run / "lora" / "README.md").unlink()
    assert card.complete(run) is None
