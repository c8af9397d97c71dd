"""`rlvis train -m` through Hydra's own launcher: which runs there are, what refuses them, how they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvis import cli
from tests.cli.helpers import Trainings, refusal


def test_a_sweep_runs_every_combination_in_this_process(trainings: Trainings, elsewhere: Path) -> None:
    words = ["sampler.eta=0.3,0.7", "seed=range(2)", "model.lora.rank=8", "name='two words'"]
    assert cli.main(["train", "-m", *words]) == 0
    runs = trainings.configs
    assert [(run.sampler.eta, run.seed) for run in runs] == [(0.3, 0), (0.3, 1), (0.7, 0), (0.7, 1)]
    assert all(run.model.lora is not None and run.model.lora.rank == 8 for run in runs)
    assert all(run.name == "two words" for run in runs)
    assert [path.name for path in elsewhere.rglob("*") if path.is_file()] == ["multirun.yaml"]
    assert cli.main(["train"]) == 0  # and nothing of the sweep is left over


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2", "optim.lr=1e-4,fast"], "optim.lr=fast: wanted a number"),
        (["model=tiny_image,tiny"], "model has no option tiny"),
        (["sampler.kernel=sde,ode"], "sampler.kernel=ode is deterministic"),
        (["seed=1,2", "run_dir=here"], "cannot share a folder; type name=NAME instead"),
        (["seed=1,2", "hydra/launcher=nowhere"], "hydra/launcher/nowhere"),
        (["seed=1,2", "hydra.sweep.dri=x"], "hydra.sweep.dri"),
    ],
)
def test_a_sweep_is_refused_before_its_first_run(
    words: list[str], message: str, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "train", "--multirun", *words)
    assert trainings.configs == []


@pytest.mark.parametrize(
    ("code", "sweep_code", "seeds"),
    [
        (1, 1, [1, 2, 3]),  # a failed run is counted, and the next begins
        (130, 130, [1]),  # an interrupted one is the last
    ],
)
def test_how_one_run_ends_decides_about_the_rest(
    trainings: Trainings, code: int, sweep_code: int, seeds: list[int]
) -> None:
    trainings.codes = {1: code}
    assert cli.main(["train", "-m", "seed=1,2,3"]) == sweep_code
    assert [run.seed for run in trainings.configs] == seeds
