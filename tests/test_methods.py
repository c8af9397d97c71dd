"""Every method through the command line, on the embedded policy and on a real family."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest

from rlvis.cli import main, one_run
from rlvis.data.prompts import ASSETS
from rlvis.records import Advantages
from rlvis.runs import archive
from rlvis.runs.archive import step_folder
from rlvis.runtime.dist import World

SMALL = [
    "data.prompts_per_step=3",
    "data.samples_per_prompt=4",
    "sampler.steps=4",
    "train.steps=2",
    "train.micro_batch=6",
    "train.save_records=true",
    "tracker.samples_every=2",
    "tracker.samples=2",
    "engine.device=cpu",
    "threads=1",
]
METHODS = {
    "grpo": [],
    "bpgo": [],
    "bpgo_released": [],
    "vipo": ["advantage.map.backbone=tiny"],
    "vipo_released": ["advantage.map.backbone=tiny"],
    "bpgo_vipo": ["advantage.map.backbone=tiny"],
}


def run(method: str, words: list[str], run_dir: Path) -> tuple[list[dict[str, float]], Advantages]:
    chosen = [f"advantage={method}", *METHODS[method], f"run_dir={run_dir}"]
    with nullcontext() if method == "bpgo_vipo" else mock.patch.object(one_run, "write_report"):
        assert main(["train", *chosen, *words, *SMALL]) == 0
    assert (run_dir / "report.html").exists() == (method == "bpgo_vipo")  # one has all panels
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    folder = step_folder(run_dir / "records", 1)
    return lines, archive.load_advantages(folder, World(), 12)


def judge(method: str, lines: list[dict[str, float]], advantages: Advantages, run_dir: Path) -> None:
    for line in lines:
        assert line["ratio/max_deviation_first"] == 0.0
    assert ("trust/weight_mean" in lines[0]) == ("bpgo" in method)
    assert ("map/mean" in lines[0]) == ("vipo" in method)
    assert (advantages.map is not None) == ("vipo" in method)
    if "vipo" in method:
        assert advantages.map is not None
        assert float(advantages.map.std()) > 0.01
        assert list((run_dir / "maps").glob("*.png"))
    contrast = {"bpgo": 2, "bpgo_vipo": 2}.get(method, 1)
    assert advantages.term.shape == (contrast, 3, 4)


@pytest.mark.parametrize("method", METHODS)
def test_on_the_embedded_policy(method: str, tmp_path: Path) -> None:
    lines, advantages = run(method, [], tmp_path / "run")
    judge(method, lines, advantages, tmp_path / "run")
    if "bpgo" in method:
        assert lines[0]["trust/weight_std"] == 0.0  # the first step's groups initialise the prior
        assert lines[1]["trust/weight_std"] > 0.0
        assert len((tmp_path / "run" / "trust.jsonl").read_text().splitlines()) == 2 * 3


@pytest.mark.parametrize("method", ["grpo", "bpgo", "vipo", "bpgo_vipo"])
def test_on_stable_diffusion_3(method: str, sd3_folder: Path, tmp_path: Path) -> None:
    words = [
        "experiment=jpeg_sd3",
        f"data.path={ASSETS / 'scenes.txt'}",
        f"model.path={sd3_folder}",
        "model.height=32",
        "model.width=32",
        "model.max_tokens=8",
        "model.dtype=float32",
    ]
    lines, advantages = run(method, words, tmp_path / "run")
    judge(method, lines, advantages, tmp_path / "run")
