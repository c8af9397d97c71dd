"""`model=NAME` alone trains: every option brings sampler, engine, micro-batch, learning rate, prompts and a
reward that fit its family, and what is typed still wins.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvis import cli
from rlvis.checks.config import check
from rlvis.compose.command import compose
from rlvis.compose.files import options
from rlvis.schema import Dtype
from tests.recipes import POLICIES


@pytest.mark.parametrize("name", options("model"))
def test_a_model_alone_can_run(name: str) -> None:
    config = compose([f"model={name}"]).typed()
    assert check(config) == []
    rows = config.data.prompts_per_step * config.data.samples_per_prompt // config.train.updates_per_step
    assert rows % config.train.micro_batch == 0, "the last forward of an update is padded"
    assert config.engine.stage > 0 or config.model.dtype is Dtype.float32


def test_what_is_typed_or_in_a_recipe_wins_over_what_a_model_brings() -> None:
    typed = compose(
        ["model=flux", "sampler=cps", "optim.lr=1e-5", "train.micro_batch=2", "engine=zero3"]
    ).typed()
    assert (typed.sampler.kernel, typed.optim.lr, typed.train.micro_batch, typed.engine.stage) == (
        "cps",
        1e-5,
        2,
        3,
    )
    recipe = compose(["experiment=dance_flux"]).typed()
    assert compose(["experiment=dance_flux", "model=flux"]).typed() == recipe
    assert (recipe.optim.lr, recipe.train.micro_batch, recipe.sampler.noise) == (1e-5, 1, "dance")


@pytest.mark.parametrize(
    "name", ["flux", "wan", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sd15", "sd3", "wan22_i2v"))]
)
def test_two_steps_of_a_tiny_model_of_the_family(name: str, tmp_path: Path) -> None:
    save, size = POLICIES[name]
    save(tmp_path / "model")
    words = [
        "train",
        f"model={name}",
        f"model.path={tmp_path / 'model'}",
        *size,
        "model.lora.rank=4",
        "model.lora.alpha=8",
        "data.prompts_per_step=2",
        "data.samples_per_prompt=2",
        "train.steps=2",
        "sampler.steps=4",
        f"run_dir={tmp_path / 'run'}",
        "engine.device=cpu",
        "tracker.samples_every=0",
        "train.micro_batch=1",
    ]
    assert cli.main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward/mean" in line] == [1, 2]
