"""The command line in process: what is printed, what reaches the run, whose messages say what to type."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvis import cli
from rlvis.cli import one_run, program, train
from rlvis.schema import Config, PriorConfig, plain
from rlvis.training.loop import Outcome
from tests.cli.helpers import Trainings, examples, refusal, write_config, write_prompts
from tests.report import making
from tests.whole import checkpoint

ROOT = Path(__file__).resolve().parents[2]


def finished(folder: Path, *words: str) -> Path:
    """A run folder with a whole checkpoint, of a default run changed by `words`."""
    checkpoint(folder, 2)
    return write_config(folder, *words)


@pytest.mark.usefixtures("quick_figures")
def test_a_run_prints_its_numbers_first_and_its_report_last(elsewhere: Path, capsys: Any) -> None:
    """A real one, as small as they come."""
    words = ["debug=tiny", "doctor=off", "train.steps=1", "optim.lr=1e-4", "run_dir=run"]
    assert cli.main(["train", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 prompts x 2 samples = 4 images/step on 1 process (2 groups), 1 update/step")
    assert lines[-1] == "run/report.html"
    assert "1 of 1 steps" in (elsewhere / "run" / "report.html").read_text()
    assert yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())["optim"]["lr"] == 1e-4
    assert len((elsewhere / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.usefixtures("quick_figures")
def test_an_interrupted_run_still_gets_its_report(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = making.folder(elsewhere / "run", 2)
    monkeypatch.setattr(one_run, "start", lambda config, argv: Outcome(130, run))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report.html")
    assert (run / "report.html").is_file()


def test_ctrl_c_before_a_run_has_a_folder_is_130(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def start(config: Config, argv: list[str]) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(one_run, "start", start)
    assert cli.main(["train"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["advantage.clip_rang=1"], "nearest: advantage.clip_range"),
        (["sampler.kernel=ode"], "type sampler.kernel=sde"),
        (["model.dtype=bfloat16"], "type engine=zero1"),
        (["data=txt"], "type data.path=FILE"),
        (["data=txt", "data.path=none.txt"], "there is no such file"),
        (["engine=json"], "engine.config=deepspeed.json cannot be read"),
        (["model.path=asset:huge"], "asset:tiny_image"),
        (["model.path=./nowhere"], "there is no such folder"),
        (["stage=score", "records=nowhere"], "holds no step_NNNNNN folder"),
        (["stage=score"], "type records=DIR"),
        (["resume=nowhere"], "there is no such folder"),
        (["--hepl"], "nearest: --help"),
        (["--local_rank=0"], "--no_local_rank"),
        (["--cfg", "jobs"], "unknown --cfg jobs; nearest: job; there are job, hydra, all"),
        (["--info", "config"], "there are defaults, defaults-tree, searchpath, plugins"),
        (["--help", "samplr"], "unknown config group samplr; nearest: sampler"),
        (["run_dir=''"], "run_dir=''"),
    ],
)
def test_a_mistake_exits_2_with_one_message(
    words: list[str], message: str, trainings: Trainings, capsys: Any
) -> None:
    assert message in refusal(capsys, "train", *words)
    assert trainings.configs == []


def test_several_contradictions_are_told_at_once(capsys: Any) -> None:
    assert cli.main(["train", "sampler.kernel=ode", "data.samples_per_prompt=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_dry_run_checks_and_loads_nothing(trainings: Trainings, capsys: Any, elsewhere: Path) -> None:
    assert cli.main(["train", "dry_run=true", "name=trial"]) == 0
    out = capsys.readouterr().out
    assert "outputs/trial/DATE_TIME" in out.splitlines()[0]
    assert "dry run" in out.splitlines()[1]
    assert trainings.configs == []
    assert list(elsewhere.iterdir()) == []


def test_only_the_leading_process_speaks(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert cli.main(["train", "model=nope"]) == 2
    assert cli.main(["train"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["train"]) == 0
    assert "on 4 processes (3 groups each)" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "128")
    assert cli.main(["train"]) == 2
    assert "cannot be spread over 128 processes" in capsys.readouterr().err


def test_cfg_job_prints_yaml_that_holds_every_value(capsys: Any) -> None:
    assert cli.main(["train", "--cfg", "job", "sampler.steps=5", "name=${data.source}"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    sampler = values["sampler"]
    assert (sampler["steps"], sampler["kernel"], values["name"]) == (5, "sde", "${data.source}")
    assert cli.main(["train", "-c", "job", "--resolve", "name=${data.source}"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "shapes"


def test_hydra_prints_what_is_hydra_s(capsys: Any) -> None:
    log = logging.getLogger()
    before = list(log.handlers), log.level
    assert (
        cli.main(["train", "--cfg", "hydra", "hydra.verbose=true", "model.lora.rank=8", "sampler=cps"]) == 0
    )
    values = yaml.safe_load(capsys.readouterr().out)
    assert list(values) == ["hydra"]
    assert (values["hydra"]["verbose"], values["hydra"]["runtime"]["choices"]["sampler"]) == (True, "cps")
    assert cli.main(["train", "--cfg", "all", "model.lora.rank=8"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["hydra"]["job"]["name"], values["model"]["lora"]["rank"]) == ("rlvis", 8)
    assert cli.main(["train", "--info", "defaults", "experiment=bpgo_flux"]) == 0
    assert "| advantage/bpgo" in capsys.readouterr().out
    assert cli.main(["train", "--info=defaults-tree"]) == 0
    assert "experiment: null" in capsys.readouterr().out
    assert cli.main(["train", "--info", "searchpath", "--config-dir", "."]) == 0
    assert "hydra.searchpath in command-line" in capsys.readouterr().out
    assert (list(log.handlers), log.level) == before


def test_a_start_says_what_an_option_replaced_and_which_prior_is_not_computed(
    trainings: Trainings, elsewhere: Path, capsys: Any
) -> None:
    write_prompts(elsewhere / "prompts.txt")
    words = ["experiment=flow_grpo_sd3_pickscore", "data.path=prompts.txt", "advantage=guard"]
    assert cli.main(["train", *words]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("48 prompts")
    assert (
        "advantage=guard over experiment=flow_grpo_sd3_pickscore: advantage.clip_range=2e-06" in printed.err
    )
    assert cli.main(["train", "prior=moving_average"]) == 0
    assert "prior.kind=moving_average is not computed" in capsys.readouterr().err
    assert trainings.configs[-1].prior == PriorConfig()
    assert cli.main(["train", "advantage=bpgo"]) == 0
    assert "not computed" not in capsys.readouterr().err
    assert trainings.configs[-1].prior.kind == "moving_average"


def test_a_run_without_its_prior_goes_on_with_the_same_words(trainings: Trainings, elsewhere: Path) -> None:
    finished(elsewhere / "outputs" / "run" / "2000-01-01_00-00-00")
    words = ["advantage=bpgo", "advantage=grpo", "prior=moving_average", "debug=overfit", "name=run"]
    assert cli.main(["train", *words]) == 0
    checkpoint(elsewhere / "outputs" / "mine" / "2000-01-01_00-00-00", 2)
    folder = elsewhere / "outputs" / "mine" / "2000-01-01_00-00-00"
    (folder / "config.yaml").write_text(yaml.safe_dump(plain(trainings.configs[-1]) | {"name": "mine"}))
    assert cli.main(["train", *words[:-1], "name=mine", "resume=auto"]) == 0
    assert trainings.configs[-1].prior == PriorConfig()


def test_help_of_a_group_shows_its_options_and_every_key(capsys: Any) -> None:
    assert cli.main(["train", "--help", "sampler"]) == 0
    text = capsys.readouterr().out
    assert "flow_fast*" in text
    assert "sampler.window.size=2 transitions\n" in text
    assert "sampler.window.kind=fixed|random_window|progressive" in text
    assert cli.main(["list", "sampler"]) == 0
    assert capsys.readouterr().out == text
    assert cli.main(["list", "optim"]) == 0
    assert "optim.lr=" in capsys.readouterr().out


def test_help_shows_verbs_groups_and_options(capsys: Any) -> None:
    assert cli.main(["--help"]) == 0
    verbs = capsys.readouterr().out
    assert all(f"\n  {verb} " in verbs for verb in program.VERBS)
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("tiny_image*", "flow_fast*", "experiment", "resume=auto", "dry_run=true", "torchrun"):
        assert word in text


def test_every_example_of_the_help_is_accepted(
    trainings: Trainings, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(elsewhere / "prompts.txt")
    (elsewhere / "my_module.py").write_text("def my_function(images, prompts, metadata): return [0.0]")
    monkeypatch.syspath_prepend(str(elsewhere))
    finished(elsewhere / "outputs" / "run" / "2000-01-01_00-00-00")
    monkeypatch.setattr(one_run, "_plan", lambda config, size, rank: 0)  # asks the hub
    for words in examples(train.HELP, "train.py"):
        assert cli.main(["train", *words]) == 0, words
    assert len(trainings.configs) >= 12


def test_list_and_its_mistakes(capsys: Any) -> None:
    assert cli.main(["list", "engine"]) == 0
    assert "zero0*" in capsys.readouterr().out
    assert cli.main(["list", "engin"]) == 2
    assert "nearest: engine" in capsys.readouterr().err
    assert cli.main(["trian"]) == 2
    assert "nearest: train" in capsys.readouterr().err
    assert cli.main(["model=sd3"]) == 2
    assert "rlvis train model=sd3" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_own_settings(trainings: Trainings, elsewhere: Path) -> None:
    folder = finished(elsewhere / "outputs" / "run" / "2000-01-01_00-00-00", "optim.lr=1e-5", "seed=7")
    assert cli.main(["train", "resume=auto", "train.steps=99"]) == 0
    run = trainings.configs[-1]
    assert (run.optim.lr, run.seed, run.train.steps) == (1e-5, 7, 99)
    assert run.resume is not None
    assert Path(run.resume).resolve() == folder.resolve()


def test_a_resumed_run_refuses_other_settings_with_both_values(
    trainings: Trainings, elsewhere: Path, capsys: Any
) -> None:
    folder = finished(elsewhere / "run", "optim.lr=1e-5")
    assert cli.main(["train", f"resume={folder}", "optim.lr=3e-4"]) == 2
    assert "optim.lr was 1e-05 and is now 0.0003" in capsys.readouterr().err
    assert cli.main(["train", f"resume={folder}", "sampler=cps"]) == 2
    assert "sampler.kernel was sde and is now cps" in capsys.readouterr().err
    assert cli.main(["train", f"resume={folder}", "optim.lr=1e-5"]) == 0
    assert len(trainings.configs) == 1


def test_a_run_with_more_steps_than_are_asked_for_has_nothing_to_do(
    trainings: Trainings, elsewhere: Path, capsys: Any
) -> None:
    checkpoint(write_config(elsewhere / "old", "seed=7"), 5)
    before = (elsewhere / "old" / "config.yaml").read_bytes()
    assert cli.main(["train", "resume=old", "train.steps=4"]) == 0
    assert "nothing to do: old has 5 training steps done, and train.steps=4" in capsys.readouterr().out
    assert trainings.configs == []
    assert (elsewhere / "old" / "config.yaml").read_bytes() == before
    assert cli.main(["train", "resume=old", "train.steps=5"]) == 0  # its export is made again
    assert len(trainings.configs) == 1


def test_resume_auto_without_a_checkpoint_starts_anew_and_says_so(trainings: Trainings, capsys: Any) -> None:
    assert cli.main(["train", "resume=auto"]) == 0
    assert "this is a new run" in capsys.readouterr().err
    assert trainings.configs[0].resume is None


def test_a_folder_that_holds_a_run_is_refused(trainings: Trainings, elsewhere: Path, capsys: Any) -> None:
    folder = finished(elsewhere / "run")
    assert cli.main(["train", f"run_dir={folder}"]) == 2
    assert f"type resume={folder}" in capsys.readouterr().err


def test_train_py_refuses_a_typo_from_any_folder_without_torch() -> None:
    code = (
        "import runpy, sys; sys.argv = ['train.py', 'advantage.clip_rang=1']\n"
        f"try: runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "2 False\n"
    assert "nearest: advantage.clip_range" in done.stderr
