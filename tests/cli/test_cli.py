"""The command line in process: exit codes, messages, what is printed, what reaches the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rlvis import cli
from rlvis.cli import program, train
from rlvis.findings import ConfigError
from rlvis.schema import Config
from tests.whole import checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test writes below its own folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Runs do not train: their configurations are collected here."""
    runs: list[Config] = []

    def start(config: Config, argv: list[str]) -> Any:
        runs.append(config)
        return SimpleNamespace(exit_code=0, run_dir=Path("outputs/somewhere"))

    monkeypatch.setattr(train, "start", start)
    monkeypatch.setattr(train, "_planned", lambda config, size, rank: 0)  # asks the hub
    monkeypatch.setattr(train, "_write_report", lambda run_dir: print(run_dir / "report.html"))
    return runs


def finished(folder: Path, **values: Any) -> Path:
    """A run folder with a whole checkpoint, of a default run changed by `values`."""
    from rlvis.compose.command import compose
    from rlvis.schema import plain

    checkpoint(folder, 2)
    words = [f"{key}={value}" for key, value in values.items()]
    (folder / "config.yaml").write_text(yaml.safe_dump(plain(compose(words).typed())))
    return folder


def test_a_run_prints_its_numbers_first_and_its_report_last(started: list[Config], capsys: Any) -> None:
    assert cli.main(["train", "optim.lr=1e-4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "12 prompts x 8 samples = 96 images/step on 1 process (12 groups), 2 updates/step of 48, "
    )
    assert lines[-1] == "outputs/somewhere/report.html"
    assert [run.optim.lr for run in started] == [1e-4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["advantage.clip_rang=1"], "nearest: advantage.clip_range"),
        (["sampler.kernel=ode"], "type sampler.kernel=sde"),
        (["model=sd3"], "type engine=zero1"),
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
        (["--cfg", "hydra"], "--cfg job"),
    ],
)
def test_a_mistake_exits_2_with_one_message(
    words: list[str], message: str, started: list[Config], capsys: Any
) -> None:
    assert cli.main(["train", *words]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    assert told.out == ""
    assert started == []


def test_several_contradictions_are_told_at_once(capsys: Any) -> None:
    assert cli.main(["train", "sampler.kernel=ode", "data.samples_per_prompt=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("in use"), 2),
        (KeyboardInterrupt(), 130),
        (RuntimeError("broke"), 1),
        (OSError("disk"), 1),
    ],
)
def test_how_a_run_ended_is_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def start(config: Config, argv: list[str]) -> Any:
        raise error

    monkeypatch.setattr(train, "start", start)
    assert cli.main(["train"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 1)


def test_a_value_error_of_ours_is_a_message_and_a_library_s_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def ours(config: Config, argv: list[str]) -> Any:
        from rlvis.data.world import language

        language.prompts("nowhere")

    monkeypatch.setattr(train, "start", ours)
    assert cli.main(["train"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(train, "start", lambda config, argv: json.loads("{"))
    assert cli.main(["train"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_run_still_gets_its_report(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    outcome = SimpleNamespace(exit_code=130, run_dir=Path("outputs/x"))
    monkeypatch.setattr(train, "start", lambda config, argv: outcome)
    monkeypatch.setattr(train, "_planned", lambda config, size, rank: 0)  # asks the hub
    monkeypatch.setattr(train, "_write_report", lambda run_dir: print(run_dir))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "outputs/x"


def test_dry_run_checks_and_loads_nothing(started: list[Config], capsys: Any, elsewhere: Path) -> None:
    assert cli.main(["train", "dry_run=true", "name=trial"]) == 0
    out = capsys.readouterr().out
    assert "outputs/trial/DATE_TIME" in out.splitlines()[0]
    assert "dry run" in out.splitlines()[1]
    assert started == []
    assert list(elsewhere.iterdir()) == []


def test_only_the_leading_process_speaks(
    started: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: Any
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
    told = yaml.safe_load(capsys.readouterr().out)
    assert (told["sampler"]["steps"], told["sampler"]["kernel"], told["name"]) == (5, "sde", "${data.source}")
    assert cli.main(["train", "-c", "job", "--resolve", "name=${data.source}"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "shapes"


def test_help_shows_verbs_groups_and_options(capsys: Any) -> None:
    assert cli.main(["--help"]) == 0
    verbs = capsys.readouterr().out
    assert all(f"\n  {verb} " in verbs for verb in program.VERBS)
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("tiny_image*", "flow_fast*", "experiment", "resume=auto", "dry_run=true", "torchrun"):
        assert word in text


def test_every_example_of_the_help_is_accepted(started: list[Config], elsewhere: Path, capsys: Any) -> None:
    (elsewhere / "prompts.txt").write_text("".join(f"a thing number {i}\n" for i in range(50)))
    finished(elsewhere / "outputs" / "run" / "2000-01-01_00-00-00")
    lines = [line for line in train.HELP.splitlines() if " train.py" in line and "usage" not in line]
    examples = [line.split("train.py", 1)[1].split("  ")[0].split() for line in lines]
    assert len(examples) >= 10
    for words in examples:
        assert cli.main(["train", *words]) == 0, words
    assert len(started) >= 12


def test_list_and_its_mistakes(capsys: Any) -> None:
    assert cli.main(["list", "engine"]) == 0
    assert "zero0*" in capsys.readouterr().out
    assert cli.main(["list", "engin"]) == 2
    assert "nearest: engine" in capsys.readouterr().err
    assert cli.main(["trian"]) == 2
    assert "nearest: train" in capsys.readouterr().err
    assert cli.main(["model=sd3"]) == 2
    assert "rlvis train model=sd3" in capsys.readouterr().err


def test_report_is_rebuilt_from_a_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from rlvis.report import html

    monkeypatch.setattr(html, "write", lambda run_dir, **more: run_dir / "report.html")
    (elsewhere / "run").mkdir()
    assert cli.main(["report", "run"]) == 0
    assert capsys.readouterr().out == "run/report.html\n"
    assert cli.main(["report", "nowhere"]) == 2
    assert cli.main(["report"]) == 2


def test_a_resumed_run_keeps_its_own_settings(started: list[Config], elsewhere: Path) -> None:
    folder = finished(elsewhere / "outputs" / "run" / "2000-01-01_00-00-00", **{"optim.lr": 1e-5, "seed": 7})
    assert cli.main(["train", "resume=auto", "train.steps=99"]) == 0
    run = started[-1]
    assert (run.optim.lr, run.seed, run.train.steps) == (1e-5, 7, 99)
    assert run.resume is not None
    assert Path(run.resume).resolve() == folder.resolve()


def test_a_resumed_run_refuses_other_settings_with_both_values(
    started: list[Config], elsewhere: Path, capsys: Any
) -> None:
    folder = finished(elsewhere / "run", **{"optim.lr": 1e-5})
    assert cli.main(["train", f"resume={folder}", "optim.lr=3e-4"]) == 2
    assert "optim.lr was 1e-05 and is now 0.0003" in capsys.readouterr().err
    assert cli.main(["train", f"resume={folder}", "sampler=cps"]) == 2
    assert "sampler.kernel was sde and is now cps" in capsys.readouterr().err
    assert cli.main(["train", f"resume={folder}", "optim.lr=1e-5"]) == 0
    assert len(started) == 1


def test_resume_auto_without_a_checkpoint_starts_anew_and_says_so(started: list[Config], capsys: Any) -> None:
    assert cli.main(["train", "resume=auto"]) == 0
    assert "this is a new run" in capsys.readouterr().err
    assert started[0].resume is None


def test_a_folder_that_holds_a_run_is_refused(started: list[Config], elsewhere: Path, capsys: Any) -> None:
    folder = finished(elsewhere / "run")
    assert cli.main(["train", f"run_dir={folder}"]) == 2
    assert f"type resume={folder}" in capsys.readouterr().err


def test_a_sweep_runs_every_combination_in_this_process(started: list[Config], elsewhere: Path) -> None:
    words = ["sampler.eta=0.3,0.7", "seed=range(2)", "model.lora.rank=8", "name='two words'"]
    assert cli.main(["train", "-m", *words]) == 0
    assert [(run.sampler.eta, run.seed) for run in started] == [(0.3, 0), (0.3, 1), (0.7, 0), (0.7, 1)]
    assert all(run.model.lora is not None and run.model.lora.rank == 8 for run in started)
    assert all(run.name == "two words" for run in started)
    assert [path.name for path in elsewhere.rglob("*") if path.is_file()] == ["multirun.yaml"]
    assert cli.main(["train"]) == 0  # and nothing of the sweep is left over


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2", "optim.lr=1e-4,fast"], "optim.lr=fast: wanted a number"),
        (["model=tiny_image,tiny"], "model has no option tiny"),
        (["sampler.kernel=sde,ode"], "sampler.kernel=ode is deterministic"),
        (["seed=1,2", "run_dir=here"], "cannot share a folder"),
        (["seed=1,2", "hydra/launcher=nowhere"], "hydra/launcher/nowhere"),
        (["seed=1,2", "hydra.sweep.dri=x"], "hydra.sweep.dri"),
    ],
)
def test_a_sweep_is_refused_before_its_first_run(
    words: list[str], message: str, started: list[Config], capsys: Any
) -> None:
    assert cli.main(["train", "--multirun", *words]) == 2
    assert message in capsys.readouterr().err
    assert started == []


def test_a_sweep_goes_on_after_a_failed_run_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def start(config: Config, argv: list[str]) -> Any:
        seen.append(config.seed)
        return SimpleNamespace(exit_code=int(config.seed == 1), run_dir=Path("x"))

    monkeypatch.setattr(train, "start", start)
    monkeypatch.setattr(train, "_planned", lambda config, size, rank: 0)  # asks the hub
    monkeypatch.setattr(train, "_write_report", lambda run_dir: None)
    assert cli.main(["train", "-m", "seed=1,2,3"]) == 1
    assert seen == [1, 2, 3]


def test_a_sweep_stops_when_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def start(config: Config, argv: list[str]) -> Any:
        seen.append(config.seed)
        return SimpleNamespace(exit_code=130, run_dir=Path("x"))

    monkeypatch.setattr(train, "start", start)
    monkeypatch.setattr(train, "_planned", lambda config, size, rank: 0)  # asks the hub
    monkeypatch.setattr(train, "_write_report", lambda run_dir: None)
    assert cli.main(["train", "-m", "seed=1,2"]) == 130
    assert seen == [1]


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
