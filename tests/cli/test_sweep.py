"""`rlvis train -m` through Hydra's own launcher: which runs there are, what refuses them, how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

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
        (["seed=1,2", "hydra.run.dir=here"], "cannot share a folder; type name=NAME instead"),
        (
            ["optim.lr=interval(1e-5,1e-3)"],
            "Hydra's basic sweeper takes lists of values; type optim.lr=A,B,C",
        ),
        (["sampler.eta=interval(0,1)"], "sampler.eta=0"),
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


class Halfway(Sweeper):
    """Tries the middle of each interval."""

    def __init__(self, **of_the_basic_sweeper: Any) -> None: ...

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        words = []
        for override in OverridesParser.create().parse_overrides(arguments):
            value, word = override.value(), override.input_line
            if isinstance(value, IntervalSweep):
                word = f"{override.get_key_element()}={(value.start + value.end) / 2}"
            words.append(word)
        (job,) = self.launcher.launch([words], initial_job_idx=0)
        print("returned", job.return_value)


def test_a_sweeper_that_draws_from_intervals_is_handed_them_and_gets_the_reward(
    trainings: Trainings, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "hydra_plugins.halfway.Halfway"  # as if it were installed
    monkeypatch.setitem(Plugins.instance().class_name_to_class, name, Halfway)
    run = elsewhere / "outputs" / "run" / "DATE_TIME"
    run.mkdir(parents=True)
    rows = [{"step": step, "reward/mean": step / 100} for step in range(1, 41)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "optim.lr=interval(1e-4,3e-4)",
        "name='two words'",
        f"hydra.sweeper._target_={name}",
    ]
    assert cli.main(["train", "-m", *words]) == 0
    (config,) = trainings.configs
    assert (config.optim.lr, config.name) == (pytest.approx(2e-4), "two words")
    assert "returned 0.385" in capsys.readouterr().out  # the mean of the last tenth
