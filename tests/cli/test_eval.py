"""`rlvis eval` in process: words, messages, what reaches the evaluation, what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvis import cli
from rlvis.checkpoints import eval_weights
from rlvis.cli import evaluate
from rlvis.schema import Config
from rlvis.training import evaluate as evaluation
from tests.cli.helpers import examples, refusal, write_config
from tests.whole import checkpoint


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Nothing is drawn: the configurations are collected here."""
    configs: list[Config] = []

    def evaluate_policy(config: Config) -> evaluation.Evaluated:
        configs.append(config)
        folder = eval_weights.output_folder(config)
        return evaluation.Evaluated(folder, folder / "step_000000.parquet", "all 48")

    monkeypatch.setattr(evaluation, "evaluate_policy", evaluate_policy)
    return configs


def finished(folder: Path, *words: str) -> Path:
    """A run folder with exported weights."""
    (folder / "model").mkdir(parents=True)
    eval_weights.note_export(folder / "model", 5, 0.1)
    return write_config(folder, *words)


def test_the_table_and_the_path_are_printed(evaluated: list[Config], capsys: Any) -> None:
    assert cli.main(["eval", "eval=shapes", "eval.prompts=9", "name=base"]) == 0
    assert capsys.readouterr().out == "all 48\noutputs/eval/base/step_000000.parquet\n"
    assert (evaluated[0].eval.suite, evaluated[0].eval.prompts) == ("shapes", 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval=none"], "type eval=shapes"),
        (["eval=shape"], "nearest: shapes"),
        (["eval.promts=3"], "nearest: eval.prompts"),
        (["eval=shapes", "data=txt", "data.path=x.txt"], "type eval=none"),
        (["eval.run=nowhere"], "there is no such folder"),
        (["-m", "eval=shapes"], "belongs to rlvis train"),
    ],
)
def test_a_mistake_exits_2_with_one_message(
    words: list[str], message: str, evaluated: list[Config], capsys: Any
) -> None:
    assert message in refusal(capsys, "eval", *words)
    assert evaluated == []


def test_a_run_keeps_its_settings_apart_from_those_of_the_evaluation(
    evaluated: list[Config], elsewhere: Path, capsys: Any
) -> None:
    run = finished(elsewhere / "run", "eval=shapes", "eval.samples=3", "sampler.shift=2", "seed=7")
    assert cli.main(["eval", f"eval.run={run}"]) == 0
    config = evaluated[-1]
    assert (config.seed, config.sampler.shift, config.eval.samples, config.run_dir) == (7, 2.0, 3, None)
    assert str(run / "eval") in capsys.readouterr().out
    assert cli.main(["eval", f"eval.run={run}", "eval.steps=4", "run_dir=other"]) == 0
    config = evaluated[-1]
    assert (config.eval.samples, config.eval.steps, config.run_dir) == (3, 4, "other")
    assert cli.main(["eval", f"eval.run={run}", "eval=shapes"]) == 0
    assert evaluated[-1].eval.samples == 1  # the option's own
    assert cli.main(["eval", f"eval.run={run}", "sampler.shift=3"]) == 2
    assert "sampler.shift was 2.0 and is now 3.0" in capsys.readouterr().err
    assert cli.main(["eval", f"eval.run={run}", "seed=7"]) == 0  # as it was


def test_help_lists_options_keys_and_examples_that_are_accepted(
    evaluated: list[Config], elsewhere: Path, capsys: Any
) -> None:
    assert cli.main(["eval", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("  none", "  shapes", "every: 20", "eval.run=", "torchrun"):
        assert word in text
    run = finished(elsewhere / "RUN", "eval=shapes")
    checkpoint(run, 20)
    finished(elsewhere / "outputs" / "NAME" / "DATE_TIME", "eval=shapes")
    (elsewhere / "prompts.txt").write_text("a thing\n")
    for words in examples(evaluate.HELP, "rlvis eval"):
        assert cli.main(["eval", *words]) == 0, words


def test_dry_run_loads_nothing(evaluated: list[Config], capsys: Any) -> None:
    assert cli.main(["eval", "eval=shapes", "dry_run=true"]) == 0
    assert "nothing was loaded" in capsys.readouterr().out
    assert evaluated == []
