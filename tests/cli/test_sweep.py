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
from rlvis.cli import one_run
from rlvis.runs.exit_state import keep_traceback
from rlvis.schema import Config
from rlvis.training.loop import Outcome
from tests.cli.helpers import Trainings, refusal
from tests.report.making import folder


def test_a_sweep_runs_every_combination_in_this_process(trainings: Trainings, elsewhere: Path) -> None:
    words = ["sampler.eta=0.3,0.7", "seed=range(2)", "model.lora.rank=8", "name='two words'"]
    assert cli.main(["train", "-m", *words]) == 0
    runs = trainings.configs
    assert [(run.sampler.eta, run.seed) for run in runs] == [(0.3, 0), (0.3, 1), (0.7, 0), (0.7, 1)]
    assert all(run.model.lora is not None and run.model.lora.rank == 8 for run in runs)
    assert all(run.name == "two words" for run in runs)
    left = {path.name: path for path in elsewhere.rglob("*") if path.is_file()}
    assert sorted(left) == ["multirun.yaml", "runs.txt"]
    assert left["runs.txt"].read_text().splitlines() == ["../../run/DATE_TIME"] * 4
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


def test_a_sweep_ends_with_the_page_that_compares_its_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick_figures: None
) -> None:
    """Also where one of the runs failed, which is on it."""

    def start(config: Config, argv: list[str]) -> Outcome:
        path = Path("outputs/run") / f"{config.optim.lr:g}_{config.seed}"
        folder(path, 2, optim__lr=config.optim.lr, seed=config.seed)
        (path / "manifest.json").write_text(json.dumps({"command": " ".join(argv)}))
        if config.seed == 1 and config.optim.lr == 0.5:
            error = RuntimeError("no luck")
            keep_traceback(error, path / "traceback.txt")
            raise error
        return Outcome(0, path)

    monkeypatch.setattr(one_run, "start", start)
    monkeypatch.setattr(one_run, "write_report", lambda run_dir: None)
    assert cli.main(["train", "-m", "optim.lr=0.25,0.5", "seed=0,1"]) == 1
    (sweep,) = Path("outputs/sweeps").iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == f"{sweep}/report.html"
    text = (sweep / "report.html").read_text()
    assert "4 runs in 2 arms;" in text
    assert "lr=0.5, seed 1" in text
    (sweep / "report.html").unlink()
    assert cli.main(["report", str(sweep)]) == 0
    assert (sweep / "report.html").is_file()


def test_one_stage_alone_is_no_run_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path / "rollout", 1, stage="rollout")
    written: list[Path] = []
    monkeypatch.setattr(one_run, "start", lambda config, argv: Outcome(0, run))
    monkeypatch.setattr(one_run, "write_report", written.append)
    assert cli.main(["train", "stage=rollout", "records=here"]) == 0
    assert written == []
    assert "ran one stage alone (stage=rollout)" in refusal(capsys, "report", str(run))
    folder(tmp_path / "whole", 1)
    assert cli.main(["report", str(tmp_path)]) == 0  # of the two the training alone
    assert capsys.readouterr().out == f"{tmp_path}/whole/report.html\n"
