"""Two training steps of a real family through the command line: what every family's test runs once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch

from rlvis.cli import main, one_run
from rlvis.data.prompts import ASSETS
from rlvis.records import Advantages
from rlvis.runs import archive
from rlvis.runs.archive import step_folder
from rlvis.runtime.dist import World

WORDS = (
    "reward=jpeg",
    "data=txt",
    f"data.path={ASSETS / 'scenes.txt'}",
    "data.prompts_per_step=2",
    "data.samples_per_prompt=3",
    "sampler.steps=3",
    "sampler.window.kind=fixed",
    "sampler.window.per_sample=false",
    "sampler.timestep_fraction=1",
    "sampler.window.size=1",
    "train.steps=2",
    "train.micro_batch=3",
    "train.save_records=true",
    "tracker.samples_every=0",
    "model.ema=null",
    "model.dtype=float32",
    "engine=zero0",
    "engine.device=cpu",
    "threads=1",
    "doctor=off",
)
METHODS = {
    "grpo": ["advantage=grpo"],
    "bpgo": ["advantage=bpgo"],
    "vipo": ["advantage=vipo", "advantage.map.backbone=tiny"],
    "bpgo_vipo": ["advantage=bpgo_vipo", "advantage.map.backbone=tiny"],
}


def two_steps(words: Sequence[str], run_dir: Path, method: str = "vipo") -> Advantages:
    """Train for two steps and return the advantages of the second; ViPO's with a map per latent position.

    words: the model, its folder and its size, and whatever changes `WORDS`. The ratio before each update must
    be 1, and the weights must have moved.
    """
    with mock.patch.object(one_run, "write_report"):  # a third of the time, tested elsewhere
        assert main(["train", *WORDS, *METHODS[method], *words, f"run_dir={run_dir}"]) == 0
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    # Rows are dealt to other places of a micro-batch, where a CPU's matrix product may round otherwise; at
    # equal places it is 0, which the parity kit holds every family to.
    assert [line["ratio/max_deviation_first"] <= 1e-6 for line in lines] == [True, True]
    assert all(line["update/grad_norm"] > 0 for line in lines)
    advantages = archive.load_advantages(step_folder(run_dir / "records", 1), World(), 6)
    assert (advantages.map is not None) == ("vipo" in method)
    assert ("trust/weight_mean" in lines[1]) == ("bpgo" in method)
    if advantages.map is not None:
        assert torch.isfinite(advantages.map).all()
        assert float(advantages.map.std()) > 0
    return advantages
